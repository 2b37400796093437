//! Debian's package manager: what is installed, what the suites offer, one combined installation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cmd;

/// Another apt (unattended upgrades on a fresh machine) may hold the lock this long.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// The machine's apt, with its lists refreshed at most once per run.
#[derive(Default)]
pub(crate) struct Apt {
    refreshed: bool,
}

impl Apt {
    /// Those of `packages` that dpkg does not hold as installed.
    pub(crate) fn missing(packages: &[String]) -> Vec<String> {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"]);
        // dpkg-query fails when one of the names is unknown, and still lists the others.
        let listed = query.args(packages).output();
        let listed = listed.map_or_else(|_| Vec::new(), |out| out.stdout);
        let listed = String::from_utf8_lossy(&listed);
        let installed: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.strip_suffix(" installed"))
            .map(|name| name.split(':').next().unwrap_or(name))
            .collect();
        let absent = |package: &&String| !installed.contains(&package.as_str());
        packages.iter().filter(absent).cloned().collect()
    }

    /// The version a suite offers, `None` if there is none.
    pub(crate) fn candidate(&mut self, package: &str) -> Result<Option<String>> {
        self.refresh()?;
        let policy = cmd::output(Command::new("apt-cache").args(["policy", package]))?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(version.filter(|v| *v != "(none)").map(str::to_owned))
    }

    /// What the packages depend on and recommend, as apt-cache prints it.
    pub(crate) fn depends(&mut self, packages: &[&str]) -> Result<String> {
        self.refresh()?;
        cmd::output(Command::new("apt-cache").arg("depends").args(packages))
    }

    /// Whether packages can be installed at all here; otherwise what stands against it.
    pub(crate) fn usable() -> std::result::Result<(), String> {
        if cmd::which("apt-get").is_none() {
            return Err("this is no Debian (no apt-get)".into());
        }
        if !cmd::is_root() {
            return Err("installing packages needs root".into());
        }
        Ok(())
    }

    /// Installs what is missing of `packages`, all in one go, without starting services.
    pub(crate) fn install(&mut self, packages: &[String]) -> Result<()> {
        let missing = Self::missing(packages);
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.join(" ");
        if let Err(reason) = Self::usable() {
            bail!(
                "missing Debian packages: {names}\n  {reason}; what to do: as root on Debian 12 or newer run\n  \
                 apt-get update && apt-get install --no-install-recommends {names}\n  \
                 (elsewhere install the same tools in your system's way), then repeat the command"
            );
        }
        self.refresh()?;
        let wanted = Self::with_companions(&missing);
        let _quiet = NoServices::new();
        cmd::step(
            &format!("installing Debian packages: {names}"),
            &mut installation(&wanted),
            "read apt's words above; a conflict or a held package has to be resolved by hand, \
             a failed download repeated",
        )
    }

    /// Installed packages that apt would remove in favour of `packages` are instead brought to the version the
    /// suites offer, up or down: a qemu-utils from the backports beside the suite's own qemu-system.
    fn with_companions(packages: &[String]) -> Vec<String> {
        let mut wanted = packages.to_vec();
        let trial = installation(packages).arg("--simulate").output();
        let trial = trial.map_or_else(|_| Vec::new(), |out| out.stdout);
        let trial = String::from_utf8_lossy(&trial);
        let removed = trial
            .lines()
            .skip_while(|line| !line.starts_with("The following packages will be REMOVED:"))
            .skip(1)
            .take_while(|line| line.starts_with(' '))
            .flat_map(str::split_whitespace);
        for package in removed {
            // `qemu-utils | 1:7.2+dfsg-7 | <mirror> bookworm/main amd64 Packages`
            let offered = cmd::output(Command::new("apt-cache").args(["madison", package]));
            let offered = offered.unwrap_or_default();
            if let Some(version) = offered.split('|').nth(1) {
                let version = version.trim();
                println!("setup: {package} changes to {version}, the one that fits");
                wanted.push(format!("{package}={version}"));
            }
        }
        wanted
    }

    /// `apt-get update`, once per run, with patience for another apt's lock.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        if self.refreshed || Self::usable().is_err() {
            return Ok(());
        }
        update(&mut apt_get(), "refreshing Debian's package lists")?;
        self.refreshed = true;
        Ok(())
    }
}

/// An apt-get that asks nothing and waits for dpkg's lock.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.env("LC_ALL", "C");
    command.arg(format!("-oDPkg::Lock::Timeout={}", LOCK_PATIENCE.as_secs()));
    command.arg("-oAcquire::Retries=3");
    command
}

/// Never at the price of a package that somebody else needs: rustc-web conflicts with Debian's rustc.
fn installation(packages: &[String]) -> Command {
    let mut install = apt_get();
    install.args(["install", "-y", "-q", "--no-install-recommends", "--no-remove", "--allow-downgrades"]);
    install.args(packages);
    install
}

/// Runs `command update`. The lock of the lists has no timeout of its own, so a held one is retried here.
fn update(command: &mut Command, label: &str) -> Result<()> {
    command.args(["update", "-q"]);
    let deadline = Instant::now() + LOCK_PATIENCE;
    // An update that reached no mirror still exits with 0.
    let sound = |output: &str| !output.lines().any(|l| l.starts_with("E:") || l.contains("Failed to fetch"));
    loop {
        let (ok, output) = cmd::try_step(label, command, sound)?;
        if ok {
            return Ok(());
        }
        if !output.contains("Could not get lock") || Instant::now() > deadline {
            bail!(
                "{label} failed:\n{output}\n  command: {}\n  what to do: check the network and /etc/apt/sources.list*",
                cmd::shown(command)
            );
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Packages such as mosquitto start their service on installation; Debian's policy-rc.d forbids it while this
/// lives. A policy the machine already has is left alone.
struct NoServices {
    written: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Self {
        let written = !Path::new(POLICY).exists()
            && fs::write(POLICY, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).is_ok();
        Self { written }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// The keys of all supported Debian releases, in package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt for another architecture or suite: own lists, own sources, nothing of the machine's changed.
pub(crate) struct ForeignApt {
    options: Vec<String>,
    label: String,
}

impl ForeignApt {
    /// Lists of `suite` for `arch`, kept below `dir`, from the mirror this machine itself uses.
    pub(crate) fn open(dir: &Path, suite: &str, arch: &str) -> Result<Self> {
        let site = own_mirror()?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let sources = dir.join("sources.list");
        // Only Debian's own keys vouch for it; where they are kept elsewhere, those this machine's apt trusts.
        let signed =
            if Path::new(KEYRING).is_file() { format!(" signed-by={KEYRING}") } else { String::new() };
        fs::write(&sources, format!("deb [arch={arch}{signed}] {site} {suite} main\n"))?;
        // No dpkg state: dependencies are not this apt's business, it only downloads.
        fs::write(dir.join("status"), "")?;
        let at = |key: &str, path: &Path| format!("-o{key}={}", path.display());
        let options = vec![
            format!("-oAPT::Architecture={arch}"),
            format!("-oAPT::Architectures={arch}"),
            at("Dir::Etc::sourcelist", &sources),
            "-oDir::Etc::sourceparts=-".into(),
            at("Dir::State", dir),
            at("Dir::State::lists", &dir.join("lists")),
            at("Dir::State::status", &dir.join("status")),
            at("Dir::Cache", &dir.join("cache")),
            "-oAPT::Sandbox::User=root".into(),
            "-oAcquire::Languages=none".into(),
            "-oAcquire::Retries=3".into(),
        ];
        let foreign = Self { options, label: format!("{suite} {arch}") };
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C").args(&foreign.options);
        update(&mut command, &format!("refreshing package lists of {}", foreign.label))?;
        Ok(foreign)
    }

    /// The dependencies of a package, one name a line.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let mut command = Command::new("apt-cache");
        command.args(&self.options).args(["depends", package]);
        let text = cmd::output(&mut command)?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// The version of a package that the suite serves.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let mut command = Command::new("apt-cache");
        command.args(&self.options).args(["show", "--no-all-versions", package]);
        let text = cmd::output(&mut command)?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).with_context(|| format!("{} has no {package}", self.label))
    }

    /// Downloads a package and unpacks its files below `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        let mut download = Command::new("apt-get");
        download.args(&self.options).args(["download", package]);
        cmd::step(
            &format!("downloading {package} ({})", self.label),
            download.current_dir(into),
            "check the network and repeat",
        )?;
        let deb = fs::read_dir(into)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        let Some(deb) = deb else {
            bail!("apt-get download {package} left no .deb file");
        };
        cmd::output(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
        fs::remove_file(deb)?;
        Ok(())
    }
}

/// The address of the Debian mirror in this machine's own apt configuration.
fn own_mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(SITE) $(RELEASE) $(CREATED_BY)"]);
    let targets = cmd::output(&mut command)?;
    let site = targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (site, release, kind) = (words.next()?, words.next()?, words.next()?);
        // Security and third-party suites do not carry whole releases of Debian.
        let whole = kind == "Packages" && !release.contains("security") && site.ends_with("/debian");
        whole.then(|| site.to_owned())
    });
    site.ok_or_else(|| {
        anyhow::anyhow!(
            "no Debian mirror in this machine's apt sources\n  what to do: add a line such as \
             `deb <mirror>/debian bookworm main` to /etc/apt/sources.list"
        )
    })
}
