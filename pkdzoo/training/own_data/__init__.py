"""``pkdzoo distill``: from a folder of labeled images to a distilled detector.

data.py looks at the data and holds out a validation split, weights.py finds teacher and initial weights, settings.py
chooses the fields of the recipes, timing.py measures a step, plan.py joins them, and distill.py trains.
"""
