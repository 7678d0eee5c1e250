"""The page for people that ``henaw serve --page`` adds: its files, what it has to know of the model, and its answer."""
