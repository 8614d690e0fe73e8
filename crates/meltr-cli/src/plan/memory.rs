//! What the system tells about memory.

use std::fs;
use std::path::Path;

/// Resident set of this process in bytes, where the system tells it.
pub(super) fn resident_bytes() -> Option<u64> {
    of_process("self", "VmRSS:")
}

/// Largest resident set so far of another process in bytes, where the system tells it.
pub(super) fn peak_of(process: u32) -> Option<u64> {
    of_process(&process.to_string(), "VmHWM:")
}

fn of_process(process: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    bytes_of(&status, field)
}

/// Lets the peak of this process start again at what it holds now. Where the system does not do
/// that, the peak stays the largest since the process started.
pub(super) fn restart_peak() {
    // Linux, see proc_pid_clear_refs(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Asks the system to end this process before any other if memory runs out.
pub(super) fn be_the_first_to_end() {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Bytes that can still be taken without swapping: what the machine has left, or a control group
/// if that is less.
pub(super) fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| bytes_of(&text, "MemAvailable:"));
    match (machine, left_of_group(Path::new("/sys/fs/cgroup"))) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// What a control group leaves beside the memory that it cannot give back.
fn left_of_group(folder: &Path) -> Option<u64> {
    let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
    let limit: u64 = limit.trim().parse().ok()?;
    let used = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let used = used.lines().find_map(|line| line.strip_prefix("anon "))?;
    Some(limit.saturating_sub(used.trim().parse().ok()?))
}

/// The bytes of a field that is given in units of 1024 bytes.
fn bytes_of(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "Name:\tmeltr\nVmHWM:\t  2024 kB\nVmRSS:\t 12 kB\nThreads:\t2\n";
        assert_eq!(bytes_of(text, "VmHWM:"), Some(2024 * 1024));
        assert_eq!(bytes_of(text, "VmRSS:"), Some(12 * 1024));
        assert_eq!(bytes_of(text, "VmSwap:"), None);
        assert_eq!(bytes_of(text, "Threads:"), None);
    }

    #[test]
    fn a_group_without_a_limit_leaves_everything() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(left_of_group(folder.path()), None);
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("memory.stat", "anon 300\nfile 500\n");
        write("memory.max", "max\n");
        assert_eq!(left_of_group(folder.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(left_of_group(folder.path()), Some(700));
        write("memory.max", "200\n");
        assert_eq!(left_of_group(folder.path()), Some(0));
    }

    #[test]
    fn what_a_process_holds_is_not_above_its_peak() {
        let (Some(now), Some(peak)) = (resident_bytes(), peak_of(std::process::id())) else {
            eprintln!("skipped: this system does not tell the memory of a process");
            return;
        };
        assert!(0 < now && now <= peak, "{now} {peak}");
    }
}
