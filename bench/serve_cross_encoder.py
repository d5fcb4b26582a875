"""What many would write: a CrossEncoder of sentence-transformers with its ONNX backend behind FastAPI.

    FOLDER=... uvicorn --app-dir bench serve_cross_encoder:app

Run in an environment of its own: `pip install 'sentence-transformers[onnx]' fastapi uvicorn uvloop httptools`.
"""

import os

import onnxruntime
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
model = CrossEncoder(
    os.environ["FOLDER"],
    backend="onnx",
    model_kwargs={"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider", "session_options": options},
)
app = FastAPI()


class Pairs(BaseModel):
    inputs: list[tuple[str, str]]


# On the event loop: with one core, threads that compute at the same time would only wait for each other.
@app.post("/predict")
async def predict(asked: Pairs) -> list[list[float]]:
    scores = model.predict(asked.inputs, activation_fn=torch.nn.Softmax(dim=-1), show_progress_bar=False)
    return scores.tolist()
