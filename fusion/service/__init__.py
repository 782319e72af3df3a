"""The service: handwriting in over HTTP, a review page, and an archive that can be searched.

One process with one SQLite file, and engine workers beside it. Knows pages and how they are shown and kept; reads none
itself.

    service   the story: uploads in, engines read, the archive keeps, people ask and correct
    archive   uploads, pages and corrections in one file; deletes for good
    index     which pages hold, or may hold, what is asked for
    terms     what is searched: words and characters of a line, and of everything else that it may say
    workers   engines in processes of their own behind a bounded queue
    answers   questions answered by a model, or from the fields of a page
    shapes    a page as the review page shows it, and as Azure's Read does
    exports   a transcription as a file
    messages  what requests and answers look like
    door      who may come in, and what is logged of it
    api       the routes
    web/      the review page: one HTML file, one style sheet, a script for each part
"""
