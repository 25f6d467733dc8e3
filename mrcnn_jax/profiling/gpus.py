"""NVIDIA GPUs for which XLA can compile without having one: what its compiler needs to know, and peak speeds."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gpu:
    """Facts about a GPU, from NVIDIA's data sheets and architecture papers and from XLA's source."""

    name: str
    """Name that the driver reports."""
    compute_capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    fpus_per_core: int
    threads_per_core: int
    shared_memory_per_core: int
    """Bytes, like the other sizes of memory."""
    shared_memory_per_block: int
    """Largest shared memory that a block may request."""
    l2_cache: int
    memory: int
    bandwidth: int
    """Memory bandwidth in bytes per second."""
    clock_ghz: float
    links: int
    """Number of NVLinks to other GPUs."""
    bfloat16_flops: float
    """Dense operations per second on tensor cores; a multiplication and an addition count as two."""
    tf32_flops: float

    @property
    def is_modelled(self) -> bool:
        """Whether XLA has a table of products for this architecture, without which its cost model fails."""
        return self.compute_capability == (9, 0)

    def make_target(self) -> str:
        """Returns XLA's GpuTargetConfigProto as text."""
        major, minor = self.compute_capability
        extension = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024
              threads_per_warp: 32
              shared_memory_per_block: 49152
              shared_memory_per_core: {self.shared_memory_per_core}
              threads_per_core_limit: {self.threads_per_core}
              core_count: {self.cores}
              fpus_per_core: {self.fpus_per_core}
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
              memory_bandwidth: {self.bandwidth}
              l2_cache_size: {self.l2_cache}
              clock_rate_ghz: {self.clock_ghz}
              device_memory_size: {self.memory}
              shared_memory_per_block_optin: {self.shared_memory_per_block}
              cuda_compute_capability {{ major: {major} minor: {minor}{extension} }}
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              thread_dim_limit_x: 1024
              thread_dim_limit_y: 1024
              thread_dim_limit_z: 64
              device_address_bits: 64
              runtime_version: "13.0.0"
              driver_version: "13.0.0"
              compile_time_toolkit_version: "13.0.0"
              dnn_version: "9.12.0"
              name: "{self.name}"
              device_interconnect_info {{ active_links: {self.links} }}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
            device_description_str: "{self.name}"
            """


_A100 = Gpu(
    name="NVIDIA A100-SXM4-80GB",
    compute_capability=(8, 0),
    cores=108,
    fpus_per_core=64,
    threads_per_core=2048,
    shared_memory_per_core=167_936,
    shared_memory_per_block=166_912,
    l2_cache=40 * 2**20,
    memory=85_100_068_864,
    bandwidth=2_039_040_000_000,
    clock_ghz=1.41,
    links=12,
    bfloat16_flops=312e12,
    tf32_flops=156e12,
)
_H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    compute_capability=(9, 0),
    cores=132,
    fpus_per_core=128,
    threads_per_core=2048,
    shared_memory_per_core=233_472,
    shared_memory_per_block=232_448,
    l2_cache=50 * 2**20,
    memory=84_942_979_072,
    bandwidth=3_352_320_000_000,
    clock_ghz=1.98,
    links=18,
    bfloat16_flops=990e12,
    tf32_flops=495e12,
)

GPUS = {
    "a100-40gb": replace(_A100, name="NVIDIA A100-SXM4-40GB", memory=42_298_834_944, bandwidth=1_555_000_000_000),
    "a100-80gb": _A100,
    "h100": _H100,
    "h200": replace(_H100, name="NVIDIA H200", memory=150_000_000_000, bandwidth=4_800_000_000_000),
    "l4": Gpu(
        name="NVIDIA L4",
        compute_capability=(8, 9),
        cores=58,
        fpus_per_core=128,
        threads_per_core=1536,
        shared_memory_per_core=102_400,
        shared_memory_per_block=101_376,
        l2_cache=48 * 2**20,
        memory=24_000_000_000,
        bandwidth=300_000_000_000,
        clock_ghz=2.04,
        links=0,
        bfloat16_flops=121e12,
        tf32_flops=60e12,
    ),
    "rtx4090": Gpu(
        name="NVIDIA GeForce RTX 4090",
        compute_capability=(8, 9),
        cores=128,
        fpus_per_core=128,
        threads_per_core=1536,
        shared_memory_per_core=102_400,
        shared_memory_per_block=101_376,
        l2_cache=72 * 2**20,
        memory=25_300_000_000,
        bandwidth=1_008_000_000_000,
        clock_ghz=2.52,
        links=0,
        bfloat16_flops=165e12,
        tf32_flops=83e12,
    ),
    "t4": Gpu(
        name="Tesla T4",
        compute_capability=(7, 5),
        cores=40,
        fpus_per_core=64,
        threads_per_core=1024,
        shared_memory_per_core=65_536,
        shared_memory_per_block=65_536,
        l2_cache=4 * 2**20,
        memory=15_600_000_000,
        bandwidth=320_000_000_000,
        clock_ghz=1.59,
        links=0,
        bfloat16_flops=65e12,
        tf32_flops=8e12,
    ),
}
"""GPUs by command-line name. A T4 has neither bfloat16 nor TF32: its speeds are those of float16 and float32."""
