"""Simulated devices: flags of XLA, which must be set before JAX starts its backend."""


def flags(count: int) -> str:
    """For so many devices on the CPU.

    Tests compile many small programs once and run them for milliseconds: they are compiled plainly. The scheduler that
    lets operations overlap lets collectives of one device take one another's place: about every twentieth run of a step
    on eight devices crashed or hung (jax 0.10.2); without it, none of 2,000. A machine that stands still for a while is
    no deadlock: XLA would abort the process after 40 s.
    """
    return " ".join(
        (
            f"--xla_force_host_platform_device_count={count}",
            "--xla_backend_optimization_level=0",
            "--xla_cpu_enable_concurrency_optimized_scheduler=false",
            "--xla_cpu_collective_call_terminate_timeout_seconds=300",
        )
    )
