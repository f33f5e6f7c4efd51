"""The page that people open: plain HTML, CSS and ES modules, as they are sent to the browser.

Owns every byte that a browser gets from this project; `peersync.agent.people` serves it. There
is nothing to build and nothing from elsewhere: no framework, no font, no request to another
host. No module builds HTML from text, so the name of a table can't become code.
"""
