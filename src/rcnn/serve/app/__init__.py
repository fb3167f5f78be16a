"""The page: look at what a model finds, correct it, train on it and look inside, in a browser.

It has no logic of its own: what it shows and does is what the functions of the package return and do.

- ``launch`` opens the model and the folder and starts the server; ``routes`` says which address does what.
- ``collection`` are the images, ``pixels`` their tiles; ``finder`` has the models and what they find.
- ``corrections`` keeps what a person changed; ``trainings`` starts ``rcnn train`` and follows it.
- ``static/`` is the page itself: plain HTML, CSS and JavaScript, without anything from elsewhere.
"""
