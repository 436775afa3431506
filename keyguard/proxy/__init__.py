"""`keyguard proxy`: issues vault keys over HTTP, and forwards the calls that carry them. Nothing here decides about money.

A call that arrives is turned into the request that would go to the vendor, and from there on takes the very way of a call in
process: the reading and sending of keyguard.patches.httpx, the handler, the guard, the ledger. So the proxy and the local
enforcer cannot differ. What is here: routes, credentials, limits, and the words of answers.
"""
