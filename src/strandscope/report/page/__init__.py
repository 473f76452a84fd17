"""The report as a page that people look at: what is on it (`spec`), made from a report (`sections`), and written (`html`)."""
