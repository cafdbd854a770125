"""The report of a run or of a clustering: one HTML file that needs no network.

`build` collects what each section shows, one module a section, and `page` renders it.
"""
