"""`dc_tf browse`: a local web application that shows the clusters of a run or of `dc_tf kmeans`.

`serve` starts it, `site` opens what it shows, `app` has the routes, `guard` decides who may ask.
"""
