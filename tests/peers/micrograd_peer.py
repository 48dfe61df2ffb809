"""Times one training step of micrograd on the moons of its demo notebook: 100 points, an MLP 2-16-16-1, the max-margin
loss with L2 regularisation, forward, backward and update.

    build/peers/venv/bin/python tests/peers/micrograd_peer.py [seconds]

The last line is "VALUE s/step", the median. The first argument is how long to measure.
"""
import math
import random
import statistics
import sys
import time

from micrograd.nn import MLP
from micrograd.engine import Value

random.seed(1337)
points, labels = [], []
for i in range(100):
    # Two half circles that interlock, with noise of 0.1, as scikit-learn's make_moons draws them.
    angle, upper = math.pi * (i // 2) / 49, i % 2 == 0
    x, y = (math.cos(angle), math.sin(angle)) if upper else (1 - math.cos(angle), 0.5 - math.sin(angle))
    points.append((x + random.gauss(0, 0.1), y + random.gauss(0, 0.1)))
    labels.append(-1 if upper else 1)
model = MLP(2, [16, 16, 1])


def step(k):
    inputs = [[Value(x), Value(y)] for x, y in points]
    scores = [model(row) for row in inputs]
    margins = [(1 + -label * score).relu() for label, score in zip(labels, scores)]
    loss = sum(margins) * (1.0 / len(margins)) + 1e-4 * sum(p * p for p in model.parameters())
    model.zero_grad()
    loss.backward()
    rate = 1.0 - 0.9 * k / 100
    for p in model.parameters():
        p.data -= rate * p.grad
    return loss.data


times, begin, loss = [], time.perf_counter(), 0.0
while len(times) < 3 or time.perf_counter() - begin < float(sys.argv[1] if len(sys.argv) > 1 else 10):
    start = time.perf_counter()
    loss = step(len(times))
    times.append(time.perf_counter() - start)
print("python %s, %d steps, loss %.4f" % (sys.version.split()[0], len(times), loss))
print("%.4f s/step" % statistics.median(times))
