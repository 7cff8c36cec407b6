"""The whole application of the blog post: one endpoint, which sleeps for as long as "the database" takes.

Runs under gunicorn; no setting but those on its command line, which `bench/subjects.py` gives.
"""

from __future__ import annotations

import time
import uuid

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.post("/order")
def create() -> Response:
    """Answers an order a second later."""
    wanted = request.get_json()
    time.sleep(1.0)
    return jsonify(order_id=str(uuid.uuid4()), state="PENDING", **wanted)
