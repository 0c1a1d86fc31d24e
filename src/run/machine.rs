//! What the machine is: for `doctor` and for the reproducibility block of every manifest.

use std::path::Path;
use std::process::Command;

/// The processor's name as Linux gives it, else the architecture.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The vector extensions the kernels can use, each with whether this processor has it.
pub fn vector_extensions() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        vec![
            ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
            ("FMA", std::arch::is_x86_feature_detected!("fma")),
            ("AVX-512", std::arch::is_x86_feature_detected!("avx512f")),
        ]
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Vec::new()
    }
}

/// One line: processor and the extensions it has.
pub fn description() -> String {
    let extensions: Vec<_> = vector_extensions().into_iter().filter_map(|(name, present)| present.then_some(name)).collect();
    format!("cpu: {} ({})", processor(), if extensions.is_empty() { "no vector extensions".into() } else { extensions.join(", ") })
}

/// Total and available memory in bytes, where the system tells.
pub fn memory() -> Option<(u64, u64)> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// Free bytes on the disk that holds `path`, as `df` gives them.
pub fn free_disk(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path.join(".")).ok()?;
    let output = Command::new("df").arg("-Pk").arg(path).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()? * 1024)
}

/// The commit of the clone of this project that `root` is, with `-dirty` where tracked files differ from it; `None` elsewhere.
pub fn commit(root: &Path) -> Option<String> {
    // A run in some other project's repository must not be signed with its commit.
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).ok()?;
    let ours = format!("name = \"{}\"", env!("CARGO_PKG_NAME"));
    if !manifest.lines().any(|line| line == ours) {
        return None;
    }
    let root = std::path::absolute(root.join(".")).ok()?;
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).current_dir(root).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Bytes in the largest unit that leaves at least one, with one decimal.
pub fn readable_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_in_the_largest_unit_that_fits() {
        let read: Vec<_> = [0, 1023, 1024, 1536, 5 << 30].map(readable_bytes).into();
        assert_eq!(read, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
    }

    #[test]
    fn a_folder_that_is_no_clone_has_no_commit() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(commit(folder.path()), None);
        std::fs::write(folder.path().join("Cargo.toml"), "name = \"other\"\n").unwrap();
        assert_eq!(commit(folder.path()), None);
    }

    #[test]
    fn the_description_names_a_processor() {
        let line = description();
        assert!(line.starts_with("cpu: ") && line.len() > "cpu:  ()".len(), "{line}");
    }
}
