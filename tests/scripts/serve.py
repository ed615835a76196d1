"""An endpoint that answers a posted picture with boxes as JSON.

FLASK_WEIGHTS=best.pt flask --app serve run, then: curl -F image=@street.jpg localhost:5000/v1/detect
"""

import io
import os
import sys

import torch
from flask import Flask, request
from PIL import Image

app = Flask(__name__)
model = torch.hub.load(
    os.environ["YOLO_REPOSITORY"], "custom", os.environ["FLASK_WEIGHTS"], source="local", _verbose=False
)


@app.route("/v1/detect", methods=["POST"])
def detect():
    if "image" not in request.files:
        return {"error": "post a picture as `image`"}, 400
    image = Image.open(io.BytesIO(request.files["image"].read()))
    results = model(image, size=96)
    return results.pandas().xyxy[0].to_json(orient="records")


if __name__ == "__main__":  # one request without a network, for a look at the answer
    client = app.test_client()
    print(client.post("/v1/detect").status_code)
    with open(sys.argv[1], "rb") as picture:  # noqa: PTH123
        answer = client.post("/v1/detect", data={"image": (picture, "a.jpg")})
    print(answer.status_code, answer.get_data(as_text=True))
