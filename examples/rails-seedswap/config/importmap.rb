pin "application"
pin "filter"
