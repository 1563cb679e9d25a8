"""The admin API over HTTP/1.1: reads only."""
