"""The parts of a run, in their order: what tells most comes first."""

from __future__ import annotations

from bench.gpu.checks import doctor, golden_tests, gpu_tests
from bench.gpu.learning import learning
from bench.gpu.run import Part
from bench.gpu.setup import make_worlds
from bench.gpu.shares import profile
from bench.gpu.steps import steps
from bench.gpu.throughput import throughput
from bench.gpu.waits import waits

PARTS = {
    "worlds": Part(make_worlds, 60),
    "doctor": Part(doctor, 40),
    "steps": Part(steps, 90),
    "throughput": Part(throughput, 90),
    "waits": Part(waits, 50),
    "profile": Part(profile, 40),
    "tests": Part(gpu_tests, 50),
    "golden": Part(golden_tests, 50),
    "learning": Part(learning, 40),
}
