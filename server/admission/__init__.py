"""Which call is begun, which waits and which is refused when there are more than can be served.

Pure: numbers go in, decisions come out, the clock is an argument. ``server.rpc.admission`` asks for each call.
"""
