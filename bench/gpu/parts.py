"""The parts of a run, in their order: what tells most comes first."""

from __future__ import annotations

from bench.gpu.checks import doctor, golden_tests, gpu_tests
from bench.gpu.image import image_network
from bench.gpu.learning import learning
from bench.gpu.run import Part
from bench.gpu.setup import make_worlds
from bench.gpu.shares import profile
from bench.gpu.steps import steps
from bench.gpu.throughput import throughput
from bench.gpu.waits import waits

PARTS = {
    "worlds": Part(make_worlds, 50),
    "doctor": Part(doctor, 35),
    "steps": Part(steps, 85),
    "throughput": Part(throughput, 85),
    "waits": Part(waits, 45),
    "profile": Part(profile, 40),
    "image": Part(image_network, 40),
    "tests": Part(gpu_tests, 45),
    "golden": Part(golden_tests, 45),
    "learning": Part(learning, 40),
}
