"""The report: one self-contained HTML file that loads nothing, reads without JavaScript, and fits a phone, a dark room
and a printer."""
