"""Sentences on the experiments that are written by hand, in docs/ and README.md, say what was measured."""

from __future__ import annotations

import json
from typing import Any

from helpers.scripts import ROOT

from pkdzoo.training import intervals
from recipes.experiments import run as runner

FOLDER = ROOT / "recipes" / "experiments"
DISTILLED_BOARDS = ("pkd", "pkd_fading", "mse", "norm_cwd")  # RTMDets of circuit boards with three seeds


def test_the_text_on_circuit_boards_says_what_was_measured() -> None:
    """Sentences of docs/measured.md and README.md that are written by hand."""
    page, readme = (" ".join((ROOT / name).read_text().split()) for name in ("docs/measured.md", "README.md"))
    runs = {path.stem: json.loads(path.read_text()) for path in (runner.RESULTS / "rtmdet_deeppcb").glob("*.json")}
    aps = {key: {point["epoch"]: point["AP"] for point in run["curve"]} for key, run in runs.items()}
    gains = {}
    for epoch in (6, 12, 18, 24):
        ours, plain = ({seed: aps[f"{name}-{seed}"][epoch] for seed in range(3)} for name in ("pkd_fading", "plain"))
        gains[epoch] = intervals.paired(ours, plain)
        assert all(ours[seed] > plain[seed] for seed in ours)
    shown = {}
    for epoch, gain in gains.items():
        mean, low, high = (part.strip("[],") for part in intervals.interval(gain).split())
        shown[epoch] = f"{mean.strip('+')}", f"({low} to {high})"
    assert f"by {shown[6][0]} AP after 6 epochs {shown[6][1]}, {shown[12][0]} after 12 {shown[12][1]}" in page
    assert f"{shown[18][0]} after 18 {shown[18][1]} and {' at the end '.join(shown[24])}" in page
    assert f"it is {shown[24][0]} {shown[24][1].replace('+', '')}" in readme


def test_the_text_on_cwd_of_boards_says_what_was_measured() -> None:
    """Its lead at each evaluation, its ends, and what the other methods and a longer training gave."""

    def result(key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((runner.RESULTS / "rtmdet_deeppcb" / f"{key}.json").read_text())
        return found

    def after(name: str, epoch: int) -> dict[int, float]:
        curves = {seed: result(f"{name}-{seed}")["curve"] for seed in range(3)}
        return {seed: next(p["AP"] for p in curve if p["epoch"] == epoch) for seed, curve in curves.items()}

    def words(lead: intervals.Summary) -> str:
        sign = "+" if lead.low < 0 else ""
        return f"({lead.low:.1f} to {lead.high:{sign}.1f})"

    names = ("measured.md", "choose.md", "../README.md")
    page, advice, readme = (" ".join((ROOT / "docs" / name).read_text().split()) for name in names)
    leads, ends = {}, after("norm_cwd", 24)
    for epoch in (6, 12, 18, 24):
        ours, plain = after("norm_cwd", epoch), after("plain", epoch)
        assert all(ours[seed] > plain[seed] for seed in ours), "the page says that each was ahead at every evaluation"
        leads[epoch] = intervals.paired(ours, plain)
        assert (leads[epoch].low > 0) == (epoch < 24), "the page says where a lead is shown"
    first, second, third, last = (f"{lead.mean:.1f}@{words(lead)}" for lead in leads.values())
    text = page.partition("**CWD after a norm on circuit boards**")[2].partition("**Not trained:**")[0]
    assert f"by {first.replace('@', ' AP after 6 epochs ')}, {second.replace('@', ' after 12 ')}," in text
    assert f"{third.replace('@', ' after 18 ')} and {last.replace('@', ' at the end ')}" in text
    assert f"with {ends[0]:.1f}, {ends[1]:.1f} and {ends[2]:.1f} AP" in text
    for name, title in (("pkd", "PKD"), ("pkd_fading", "PKD with a falling weight")):
        gain = intervals.paired(ends, after(name, 24))
        assert gain.low > 0 and f"{gain.mean:.1f} above {title} {words(gain)}" in text
    hours = [sum(result(f"{name}-{seed}")["cpu_hours"] for seed in range(3)) / 3 for name in ("norm_cwd", "plain")]
    assert f"took {hours[0]:.2f} hours, the plain one {hours[1]:.2f}." in text
    plain_ap, longer = after("plain", 24)[0], result("plain_twice-0")
    more = longer["metrics"]["AP"]
    assert f"48 epochs and {longer['cpu_hours']:.2f} hours the plain RTMDet (seed 0) had {more:.1f} AP" in text
    assert more > max(result(f"{name}-{seed}")["metrics"]["AP"] for name in DISTILLED_BOARDS for seed in range(3))
    assert "On circuit boards a plain student with twice the epochs was better than all of these" in readme
    fgd, norm_kl = (result(f"{name}-0")["metrics"]["AP"] for name in ("fgd", "norm_kl"))
    assert round(norm_kl, 1) == round(plain_ap, 1), "the page says that they are equal"
    assert f"Norm + KL ended at {norm_kl:.1f}, as the plain student, and FGD at {fgd:.1f}, {plain_ap - fgd:.1f}" in text
    later = sum(ends[seed] - after("plain", 24)[seed] for seed in (1, 2)) / 2
    assert f"and {later:.1f} above the plain RTMDet of circuit boards" in page
    assert f"{third.replace('@', ' AP above the plain ones after 18 epochs ')} and" in advice
    assert f"{last.replace('@', ' ')} at the end" in advice
    assert f"and {last.replace('@', ' ').replace('+', '')} with normalized CWD, for a GFL" in readme


def test_the_text_on_longer_trainings_says_what_was_measured() -> None:
    """The paragraph of docs/measured.md on plain students with twice the epochs."""
    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    text = page.partition("**More epochs gave an RTMDet more than a teacher.**")[2].partition("too short trainings.")[0]
    for data in ("bccd", "deeppcb"):
        runs = {path.stem: json.loads(path.read_text()) for path in (runner.RESULTS / f"rtmdet_{data}").glob("*.json")}
        longer = runs["plain_twice-0"]
        others = [run["metrics"]["AP"] for key, run in runs.items() if run["recipe"]["distill"] and "_twice" not in key]
        assert longer["metrics"]["AP"] > max(others)
        assert f"{longer['recipe']['schedule']['epochs']} epochs gave {longer['metrics']['AP']:.1f} AP" in text
        assert f"in {longer['cpu_hours']:.2f} hours" in text
    less = (
        runs["w24-0"]["metrics"]["AP"] - longer["metrics"]["AP"],
        longer["metrics"]["AP"] - runs["plain-0"]["metrics"]["AP"],
    )
    assert f"{less[1]:.1f} more than 24 and {less[0]:.1f} less than the teacher" in text


def test_the_text_on_levels_that_differ_in_size_says_what_was_measured() -> None:
    """The paragraph of docs/measured.md on the pyramid of the GFL that teaches for 120 epochs."""
    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    found = json.loads((FOLDER / "maps" / "gfl_bccd_120-cspnext.json").read_text())
    sizes = [level["rms"] for level in found["levels"]]
    assert sizes[-1] == max(sizes) and sizes[2] == min(sizes)
    assert f"has {sizes[-1]:.0f} as root mean square, its third {sizes[2]:.1f}" in page
    names = ("mse", "mse_weight_1", "mse_weight_0.1", "mse_weight_0.01", "pkd", "plain")
    files = (runner.RESULTS / "gfl_bccd" / f"{name}-0.json" for name in names)
    ten, one, tenth, hundredth, pkd, plain = (f"{json.loads(file.read_text())['metrics']['AP']:.1f}" for file in files)
    assert f"with 10, 1, 0.1 and 0.01 the student had {ten}, {one}, {tenth} and {hundredth} AP after 60 epochs" in page
    assert f"with PKD {pkd}, without a teacher {plain}." in page


def test_the_text_on_methods_for_the_gfl_says_what_was_measured() -> None:
    """The paragraph of docs/measured.md on LD, PKD and MSE, after 60 and 120 epochs."""

    def aps(experiment: str, name: str, seeds: tuple[int, ...]) -> dict[int, float]:
        folder = runner.RESULTS / experiment
        return {s: json.loads((folder / f"{name}-{s}.json").read_text())["metrics"]["AP"] for s in seeds}

    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    names, words = ("plain", "ld", "pkd", "mse"), {}
    long = {name: aps("gfl_bccd_120", name, (0, 1, 2)) for name in (*names, "crosskd", "norm_cwd")}
    short = {name: aps("gfl_bccd", name, (0,))[0] for name in names}
    pairs = [*((name, "plain") for name in ("norm_cwd", "crosskd", "ld", "pkd", "mse")), ("pkd", "mse")]
    for name, other in pairs:
        gain = intervals.paired(long[name], long[other])
        assert gain is not None
        signs = "" if other == "mse" else "+"
        words[name, other] = f"{gain.mean:+.1f}", f"({gain.low:{signs}.1f} to {gain.high:{signs}.1f})"
    cwd, crosskd, ld, pkd, mse, between = (f"{mean[0]} {mean[1]}" for mean in words.values())
    cwd = cwd.replace(" ", " AP ", 1)
    assert f"minus the plain GFL: CWD after a norm {cwd}, CrossKD {crosskd}, LD {ld}, PKD {pkd}, MSE {mse}." in page
    gains = {name: intervals.paired(long[name], long["plain"]) for name in ("norm_cwd", "crosskd", "ld", "pkd")}
    assert all(gain is not None and gain.low < 0 for gain in gains.values()), "the page says that no gain is shown"
    once = {name: long["plain"][0] - aps("gfl_bccd_120", name, (0,))[0] for name in ("norm_kl", "fgd")}
    assert f"Norm + KL ended {once['norm_kl']:.1f} below the plain GFL and FGD {once['fgd']:.1f} below" in page
    assert f"PKD ended {between.removeprefix('+').replace(' ', ' above MSE ', 1)}, both with weight 10" in page
    less = [f"{short[name] - short['plain']:+.1f}" for name in ("ld", "pkd", "mse")]
    assert f"LD, PKD and MSE had the same order: {less[0]}, {less[1]} and {less[2]}." in page
    mean, interval = words["pkd", "mse"]
    assert f"better than MSE by {mean[1:]} AP (95 % interval {interval[1:-1]}, three seeds" in page


def test_the_text_on_where_learning_ends_says_what_was_measured() -> None:
    """The paragraphs of docs/measured.md on twice the epochs, on selected seeds and on the teachers of the GFL."""
    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    folder = runner.RESULTS / "gfl_bccd_120"
    runs = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    ap = {key: run["metrics"]["AP"] for key, run in runs.items()}
    twice, once = ({s: ap[f"{name}-{s}"] for s in (0, 1, 2)} for name in ("plain_twice", "plain"))
    more, average, first = [twice[s] - once[s] for s in twice], intervals.paired(twice, once), twice[0]
    assert average is not None
    ends = "ended at {:.1f}, {:.1f} and {:.1f} AP (seeds 0, 1 and 2), ".format(*twice.values())
    assert ends + "{:.1f}, {:.1f} and {:.1f} above its 120".format(*more) in page
    assert f"{average.mean:.1f} on average ({average.low:+.1f} to {average.high:+.1f})" in page
    assert average.mean > 0.5, "the page says that 120 epochs are short of the end"
    assert average.low < 0, "the page says that a gain is not shown"
    longest, word = ap["plain_four_times-0"], "above" if ap["plain_four_times-0"] > first else "below"
    assert f"With 480 (seed 0) it ended at {longest:.1f}, {abs(longest - first):.1f} {word} its 240, in" in page
    assert longest - first < 0.5, "the page says that 240 epochs are the end"
    assert f"in {runs['plain_four_times-0']['cpu_hours']:.2f} hours; it had at most" in page
    assert f"at most {max(point['AP'] for point in runs['plain_four_times-0']['curve']):.1f} on the way" in page
    crosskd_ap = {s: ap[f"crosskd-{s}"] for s in (0, 1, 2)}
    less = intervals.paired(twice, crosskd_ap)
    assert less is not None
    with_crosskd = "{:.1f} below those with CrossKD and 120 epochs ({:.1f}, {:.1f} and {:.1f})"
    assert with_crosskd.format(-less.mean, *crosskd_ap.values()) in page
    assert f"no difference is shown ({less.low:+.1f} to {less.high:+.1f})" in page and less.low < 0 < less.high
    with_cwd = intervals.paired(twice, {s: ap[f"norm_cwd-{s}"] for s in (0, 1, 2)})
    assert with_cwd is not None and with_cwd.low < 0 < with_cwd.high, "README says that no difference is shown"
    later = [sum(ap[f"{name}-{s}"] - ap[f"plain-{s}"] for s in (1, 2)) / 2 for name in ("crosskd", "norm_cwd")]
    assert f"alone CrossKD is {later[0]:.1f} above the plain GFL, CWD {later[1]:.1f}," in page
    lead = ap["cspnext-0"] - sum(ap[f"plain-{s}"] for s in range(3)) / 3
    assert f"has {ap['cspnext-0']:.1f} AP, {lead:.1f} more than the plain students' mean" in page
    boards = runner.RESULTS / "rtmdet_deeppcb"
    teacher, *students = (
        json.loads((boards / f"{key}.json").read_text())["metrics"]["AP"]
        for key in ("w24-0", "plain-0", "plain-1", "plain-2")
    )
    assert f"boards has {teacher - sum(students) / 3:.1f} more than the plain students' mean" in page
    names = ("plain", "crosskd", "norm_cwd")
    plain, crosskd, cwd = (sum(runs[f"{name}-{s}"]["cpu_hours"] for s in range(3)) for name in names)
    times = (
        f"takes {crosskd / plain:.1f} times the processor time of a plain one, with CWD after a norm {cwd / plain:.1f}"
    )
    assert times in page
    assert f"took {runs['plain_twice-0']['cpu_hours']:.2f} hours" in page
    longer = sum(runs[f"plain_twice-{s}"]["cpu_hours"] for s in range(3))
    assert longer > max(crosskd, cwd), "README says that twice the epochs took longer"


def test_the_text_on_240_epochs_says_what_was_measured() -> None:
    """The paragraph of docs/measured.md on 240 epochs with PKD and with CWD after a norm."""
    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    text = page.partition("**With 240 epochs of blood cells PKD")[2].partition("**The GFL teachers are hardly")[0]
    runs = {path.stem: json.loads(path.read_text()) for path in (runner.RESULTS / "gfl_bccd_120").glob("*.json")}
    names = ("norm_cwd_twice-0", "pkd_twice-0", "plain_twice-0")
    cwd, pkd, plain = (runs[name]["metrics"]["AP"] for name in names)
    best = max(runs[f"plain_twice-{seed}"]["metrics"]["AP"] for seed in range(3))
    gains = f"{cwd - plain:.1f} above the plain one of this seed and {cwd - best:.1f} above the best of its three seeds"
    assert f"ended at {cwd:.1f} AP, {gains}" in text
    assert f"with PKD it ended at {pkd:.1f}, {plain - pkd:.1f} below the plain one" in text
    once = [runs[name.replace("_twice", "")]["metrics"]["AP"] for name in names]
    assert f"had {once[0] - once[2]:.1f} more and {once[2] - once[1]:.1f} less than the plain one" in text
    gained = [f"{now - then:+.1f}".replace("-0.0", "+0.0") for now, then in zip((cwd, pkd, plain), once, strict=True)]
    assert f"gave CWD {gained[0]}, PKD {gained[1]} and the plain one {gained[2]}." in text
    curves = [{point["epoch"]: point["AP"] for point in runs[name]["curve"]} for name in names]
    ahead, other = ([curve[epoch] - curves[2][epoch] for epoch in curves[2]] for curve in curves[:2])
    times = f"{sum(each > 0 for each in ahead)} of {len(ahead)} evaluations"
    assert f"ahead of the plain GFL at {times}, by at most {max(ahead):.1f}, PKD behind at all of them" in text
    assert max(other) < 0
    taught = {runs[name]["teacher"]["AP"] for name in names[:2]}
    assert f"trained again, with {taught.pop():.1f} AP" in text and not taught
    hours = (runs[name]["cpu_hours"] for name in (*names[:2], "plain_twice-2"))
    assert "CWD took {:.2f} hours, PKD {:.2f}, and a plain run of the same day {:.2f} (seed 2)".format(*hours) in text


def test_the_text_on_crosskd_says_how_far_it_was_ahead() -> None:
    """The paragraph of docs/measured.md on the curves of CrossKD and of the plain GFL."""

    def after(name: str, epoch: int) -> dict[int, float]:
        files = {seed: runner.RESULTS / "gfl_bccd_120" / f"{name}-{seed}.json" for seed in (0, 1, 2)}
        curves = {seed: json.loads(file.read_text())["curve"] for seed, file in files.items()}
        return {seed: next(p["AP"] for p in curve if p["epoch"] == epoch) for seed, curve in curves.items()}

    page = " ".join((ROOT / "docs" / "measured.md").read_text().split())
    leads = {k: intervals.paired(after("crosskd", k), after("plain", k)) for k in range(10, 121, 10)}
    assert all((lead.low > 0) == (epoch <= 80) for epoch, lead in leads.items())
    ten, sixty, eighty = (f"{(g := leads[k]).mean:.1f} after {k}@({g.low:.1f} to {g.high:.1f})" for k in (10, 60, 80))
    first = ten.replace(" after 10@", " AP after 10 epochs ")
    assert f"was {first}, {sixty.replace('@', ' ')} and {eighty.replace('@', ' ')}" in page


def test_the_text_on_crosskd_of_boards_says_what_was_measured() -> None:
    page, advice = (" ".join((ROOT / "docs" / name).read_text().split()) for name in ("measured.md", "choose.md"))
    names = ("crosskd", "plain", "cspnext")
    runs = [json.loads((runner.RESULTS / "gfl_deeppcb" / f"{name}-0.json").read_text()) for name in names]
    ours, plain, teacher = (run["metrics"]["AP"] for run in runs)
    gain = ours - plain
    said = f"{ours:.1f} AP after 24 epochs, {gain:.1f} more than the plain GFL; its teacher has {teacher:.1f}."
    assert said in page
    curves = [[point["AP"] for point in run["curve"]] for run in runs[:2]]
    had, other = (f"{early[0]:.1f}, {early[1]:.1f} and {early[2]:.1f}" for early in curves)
    assert f"After 6, 12 and 18 epochs it had {had}, the plain one {other}." in page
    assert f"took {runs[0]['cpu_hours']:.2f} hours, the plain one {runs[1]['cpu_hours']:.2f}." in page
    assert f"One GFL of circuit boards ended {gain:.1f} above the plain one." in advice
