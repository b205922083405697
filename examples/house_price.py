"""The house-price model of every deployment tutorial, end to end.

price = 10000 + 500 · area + 2000 · bedrooms + 1000 · bathrooms: 68000 for (100, 3, 2), and 78000 for (120, 3, 2).

    make up
    .venv/bin/python -m examples.house_price
"""

import os

import modelyard
import numpy as np
from sklearn.linear_model import LinearRegression

from examples.inference import predict, wait_for_version

MODEL = "house-price"
HOUSES = {(100.0, 3.0, 2.0): 68_000.0, (120.0, 3.0, 2.0): 78_000.0}
"""(area, bedrooms, bathrooms) and the price that the formula gives."""
ADAPTER = os.environ.get("MODELYARD_ADAPTER", "http://127.0.0.1:8080")


def train() -> tuple[LinearRegression, np.ndarray]:
    """Fit the model on 200 made-up houses; returns it with their features, shape (200, 3)."""
    random = np.random.default_rng(seed=7)
    area, bedrooms, bathrooms = (
        random.uniform(30, 300, 200),
        random.integers(1, 6, 200),
        random.integers(1, 4, 200),
    )
    features = np.column_stack([area, bedrooms, bathrooms]).astype(np.float64)
    price = 10_000 + 500 * area + 2_000 * bedrooms + 1_000 * bathrooms
    return LinearRegression().fit(features, price), features


def main() -> list[float]:
    """Train, register, promote, ask the adapter, compare; returns the prices that the adapter answered."""
    model, features = train()
    version = modelyard.publish(MODEL, model, example=features[:5], metrics={"r2": 1.0})
    print(f"registered {MODEL}/{version.number}  {version.digest[:19]}…")
    modelyard.promote(MODEL, version.number, reason="the tutorial says so")
    wait_for_version(ADAPTER, MODEL, version.number)
    answer = predict(ADAPTER, MODEL, [list(house) for house in HOUSES])
    prices = [float(price) for price in answer["outputs"][0]["data"]]
    for (house, expected), price in zip(HOUSES.items(), prices, strict=True):
        print(f"version {answer['model_version']} says {price:.2f} for area, bedrooms, bathrooms = {house}")
        if abs(price - expected) > 0.01:
            raise SystemExit(f"expected {expected:.2f}")
    return prices


if __name__ == "__main__":
    main()
