"""The nearest of N vectors: Firestore's find_nearest on its emulator beside one product of a matrix here.

    python -m benchmarks.nearest [N] [DIMENSIONS]

Processor time of this process for ours; wall-clock time for both, which on a machine that is busy says little: only
their ratio is of use. The emulator searches exactly, as our product does; Firestore adds a round trip to it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import numpy

from samvad.knowledge.meaning import _Matrix
from samvad.knowledge.records import Vectors
from samvad.testing.emulator import FirestoreEmulator

QUESTIONS = 20


async def firestore(host: str, project: str, rows: Any, queries: Any) -> float:
    """Seconds a question, by find_nearest over one collection."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.firestore import AsyncClient
    from google.cloud.firestore_v1.base_vector_query import DistanceMeasure
    from google.cloud.firestore_v1.vector import Vector

    client = AsyncClient(project=project, credentials=AnonymousCredentials())
    collection = client.collection("passages")
    for at in range(0, len(rows), 100):
        batch = client.batch()
        for number, row in enumerate(rows[at : at + 100], at):
            batch.set(collection.document(str(number)), {"vector": Vector(row.tolist())})
        await batch.commit()
    began = time.perf_counter()
    for query in queries:
        wanted = collection.find_nearest(
            "vector", Vector(query.tolist()), distance_measure=DistanceMeasure.COSINE, limit=24
        )
        assert len(await wanted.get()) == 24
    return (time.perf_counter() - began) / len(queries)


def here(rows: Any, queries: Any) -> tuple[float, float]:
    """Seconds a question, and processor time of it, by what the search engine does."""
    matrix = _Matrix("space", rows.shape[1])
    spans = tuple((number, number + 1) for number in range(len(rows)))
    matrix.put(Vectors("document", "space", "", "", rows.shape[1], spans, rows.astype("<f4").tobytes()))
    matrix.nearest(queries[0], 24, None)
    began, cpu = time.perf_counter(), time.process_time()
    for query in queries:
        assert len(matrix.nearest(query, 24, None)) == 24
    return (time.perf_counter() - began) / len(queries), (time.process_time() - cpu) / len(queries)


def main() -> None:
    """Measure both, and print them side by side."""
    count, dimensions = (int(each) for each in (*sys.argv[1:], "2000", "768")[:2])
    random = numpy.random.default_rng(1)
    rows = random.standard_normal((count, dimensions)).astype("float32")
    queries = random.standard_normal((QUESTIONS, dimensions)).astype("float32")
    wall, cpu = here(rows, queries)
    print(f"here:         {wall * 1e3:8.2f} ms a question ({cpu * 1e3:.2f} ms of processor time)")
    with FirestoreEmulator() as emulator:
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator.host
        there = asyncio.run(firestore(emulator.host, emulator.new_project(), rows, queries))
    print(f"find_nearest: {there * 1e3:8.2f} ms a question, {there / wall:.0f} times as long")


if __name__ == "__main__":
    main()
