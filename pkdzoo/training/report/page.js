"use strict";
// The filter by class, the theme, and the gallery. Everything that is shown comes from the page itself.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const place = document.getElementById("gallery");
  const filter = document.getElementById("class");

  document.getElementById("theme").addEventListener("click", function () {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function drawTile(entry, tile, label) {
    const made = element("div", "tile");
    const image = element("img");
    image.src = entry.src;
    image.alt = entry.name + ", " + tile.title;
    image.width = entry.width;
    image.height = entry.height;
    made.append(image, element("b", "", tile.title));
    for (const [x, y, width, height, own, score, right] of tile.boxes) {
      if (label >= 0 && own !== label) continue;
      const box = element("span", right ? "box" : "box no");
      box.style.cssText = "left:" + x + "%;top:" + y + "%;width:" + width + "%;height:" + height + "%";
      box.title = data.classes[own] + (score === null ? "" : " " + score.toFixed(2) + (right ? "" : ", wrong"));
      made.append(box);
    }
    return made;
  }

  function drawGallery(label) {
    place.textContent = "";
    let shown = 0;
    for (const entry of data.gallery) {
      const has = entry.tiles.some(function (tile) {
        return tile.boxes.some(function (box) { return box[4] === label; });
      });
      if (label >= 0 && !has) continue;
      const figure = element("figure");
      figure.append(element("figcaption", "", entry.name + " \u2013 " + entry.caption));
      const tiles = element("div", "tiles");
      for (const tile of entry.tiles) tiles.append(drawTile(entry, tile, label));
      figure.append(tiles);
      place.append(figure);
      shown += 1;
    }
    if (!shown) place.append(element("p", "soft", "No image of the gallery shows this class."));
  }

  function choose() {
    const label = Number(filter.value);
    const name = label < 0 ? "" : data.classes[label];
    for (const row of document.querySelectorAll("tr[data-class]")) {
      row.classList.toggle("chosen", row.dataset.class === name);
      if (row.closest(".per-class")) row.hidden = Boolean(name) && row.dataset.class !== name;
    }
    for (const line of document.querySelectorAll("svg [data-class]")) {
      line.style.display = line.dataset.class === name ? "" : "none";
    }
    drawGallery(label);
  }

  if (filter) {
    filter.addEventListener("change", choose);
    choose();
  } else if (place) {
    drawGallery(-1);
  }
})();
