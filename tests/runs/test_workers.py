"""Worker processes: one thread each, under settings of our own."""

import os
import subprocess
import sys

from ktransfer.runs.workers import local_executor, stop


def test_a_worker_has_one_thread_for_numpy_too():
    pool = local_executor(1)
    try:
        found = pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result()
    finally:
        stop(pool)
    assert found == "1"


def test_a_planted_keras_json_changes_nothing(tmp_path):
    home = tmp_path / ".keras"
    home.mkdir()
    (home / "keras.json").write_text('{"floatx": "float16"}', encoding="utf-8")
    program = (
        "from ktransfer.engine import backend; backend.check_settings()\n"
        "import keras; print(keras.config.floatx())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HOME": str(tmp_path), "KERAS_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "float32", done.stderr
