//! Sets `cfg(bpf_target_arch)`: whose registers the probes read (`--cfg bpf_target_arch` if given, else this machine's).

fn main() -> aya_build::Result<()> {
    aya_build::emit_bpf_target_arch_cfg()
}
