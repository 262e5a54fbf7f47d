from flask import Flask
from redis import Redis

app = Flask(__name__)
redis = Redis(host="redis", port=6379)


@app.get("/")
def count():
    return f"You are visitor {redis.incr('visitors')}.\n"


@app.get("/healthy")
def healthy():
    return "yes\n"


app.run(host="0.0.0.0", port=5000)
