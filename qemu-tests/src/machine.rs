//! The machine: QEMU's `virt` board with two arm64 cores, no disk, and a user-mode network in which the
//! guest is 10.0.2.15 and the host's loopback services answer at 10.0.2.2.

use std::path::Path;
use std::process::Command;

/// The emulator.
pub const QEMU: &str = "qemu-system-aarch64";
/// The host, as the guest sees it.
pub const HOST_ADDRESS: &str = "10.0.2.2";

/// The command that boots `kernel` with `initramfs`. The serial console is its standard input and output;
/// it ends when the guest powers off, and when the guest's kernel panics.
#[must_use]
pub fn command(kernel: &Path, initramfs: &Path) -> Command {
    let mut qemu = Command::new(QEMU);
    // Pointer authentication in its architected form costs an emulator dearly: `pauth-impdef`.
    // The mmio devices need no option ROM.
    qemu.args(["-M", "virt", "-cpu", "max,pauth-impdef=on", "-smp", "2", "-m", "1024"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyAMA0 rdinit=/sbin/init quiet panic=-1"]);
    qemu
}
