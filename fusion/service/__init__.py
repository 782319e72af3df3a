"""The service: handwriting in over HTTP, a review page, and an archive that can be searched.

One process with one SQLite file, and engine workers beside it. Knows pages and how they are shown and kept; reads none
itself.

    terms     what is searched: words and characters of a line, and of everything else that it may say
    archive   uploads, pages, corrections and their index in one file; deletes for good
    workers   engines in processes of their own behind a bounded queue
    answers   questions answered from the fields of a page
    shapes    what goes over the wire
    api       the routes
    web/      the review page: one HTML file, one script, one style sheet
"""
