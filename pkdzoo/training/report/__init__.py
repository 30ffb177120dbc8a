"""The report of runs: one HTML file without a network, for people.

contenders.py reads the folders of runs, pairs.py chooses which are compared, measures.py compares their detections,
gallery.py chooses images, charts.py draws curves as SVG, and page.py joins them with page.css and page.js.
"""
