//! The machine: QEMU's `virt` board with two arm64 cores and a user-mode network in which the guest is 10.0.2.15
//! and the host's loopback services answer at 10.0.2.2.

use std::path::Path;
use std::process::Command;

/// The emulator.
pub const QEMU: &str = "qemu-system-aarch64";
/// The host, as the guest sees it.
pub const HOST_ADDRESS: &str = "10.0.2.2";

/// What is booted.
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The initial file system.
    pub initramfs: &'a Path,
    /// Memory: the file system, unpacked, and what runs.
    pub mib: u32,
    /// A file that is the guest's disk, `/dev/vda`, byte for byte.
    pub disk: Option<&'a Path>,
}

impl Machine<'_> {
    /// The command that boots it. The serial console is its standard input and output; it ends when the guest
    /// powers off, and when the guest's kernel panics.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut qemu = Command::new(QEMU);
        // Pointer authentication in its architected form costs an emulator dearly: `pauth-impdef`.
        // The mmio devices need no option ROM.
        qemu.args(["-M", "virt", "-cpu", "max,pauth-impdef=on", "-smp", "2", "-m"])
            .arg(self.mib.to_string())
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0"]);
        if let Some(disk) = self.disk {
            // A comma would end the name; two are one.
            let name = disk.display().to_string().replace(',', ",,");
            qemu.arg("-drive").arg(format!("if=none,id=d0,format=raw,file={name}"));
            qemu.args(["-device", "virtio-blk-device,drive=d0"]);
        }
        qemu.arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", "console=ttyAMA0 rdinit=/sbin/init quiet panic=-1"]);
        qemu
    }
}
