"""Creates sent again and again, to all workers at once, while workers die: is there one order for each request?"""
