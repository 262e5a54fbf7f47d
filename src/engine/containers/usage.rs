//! Resource usage of a container, from the kernel's own files: its processes (`top`) and its resources (`stats`).

use crate::engine::Container;
use crate::engine::error::EngineError;
use crate::engine::launch::control_groups::Groups;
use crate::engine::record::Status;
pub use crate::sys::disk_usage::disk_usage;
use std::collections::HashMap;
use std::fs;

/// A process, as `ps -ef` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The user's name on the host, or the number.
    pub user: String,
    /// On the host.
    pub pid: i32,
    pub ppid: i32,
    /// Per cent of a processor since its start.
    pub cpu: u64,
    /// When it was started: `HH:MM`, or the day where it was not today.
    pub started: String,
    pub tty: String,
    /// Processor time, `HH:MM:SS`.
    pub time: String,
    pub command: String,
}

/// Resources at one moment. Times are nanoseconds, sizes bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_total: u64,
    pub cpu_user: u64,
    pub cpu_system: u64,
    /// Of all processors of the host, idle included.
    pub host_cpu: u64,
    pub processors: u64,
    pub memory: u64,
    /// The host's memory where the container has no limit.
    pub memory_limit: u64,
    /// What the kernel counts apart, by its names (memory.stat): bytes, and events.
    pub memory_details: Vec<(String, u64)>,
    /// Periods of the processor's quota, those in which it was used up, and nanoseconds of waiting.
    pub throttled: (u64, u64, u64),
    pub processes: u64,
    /// 0 is without limit.
    pub processes_limit: u64,
    /// Device's numbers, bytes read and written.
    pub blocks: Vec<(u64, u64, u64, u64)>,
    /// By interface.
    pub networks: Vec<(String, Traffic)>,
}

/// Bytes and packets of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Groups {
    /// The processes of a running container.
    ///
    /// # Errors
    /// When it does not run.
    pub fn processes(&self, container: &Container) -> Result<Vec<Process>, EngineError> {
        if !matches!(container.status(), Status::Running | Status::Paused) {
            return Err(container.not_running());
        }
        let users = names_of_users();
        let booted = booted_at();
        Ok(self.hierarchy.processes(&container.group()).into_iter().filter_map(|pid| process(pid, &users, booted)).collect())
    }

    /// The usage of a container now; nothing for one that does not run.
    pub fn usage(&self, container: &Container) -> Usage {
        let group = container.group();
        let file = |controller: &str, name: &str| {
            let path = self.hierarchy.directory(controller, &group).map(|directory| directory.join(name));
            path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
        };
        let number = |controller: &str, name: &str| -> u64 { file(controller, name).trim().parse().unwrap_or(0) };
        let keyed = |text: &str, key: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
            value.unwrap_or(0)
        };
        let host_memory = keyed_kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:");
        let mut usage = Usage {
            host_cpu: host_cpu(),
            processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            processes: number("pids", "pids.current"),
            processes_limit: number("pids", "pids.max"),
            networks: traffic_of(container),
            ..Usage::default()
        };
        let limit;
        if self.hierarchy.is_v2() {
            let cpu = file("", "cpu.stat");
            usage.cpu_total = keyed(&cpu, "usage_usec") * 1000;
            usage.cpu_user = keyed(&cpu, "user_usec") * 1000;
            usage.cpu_system = keyed(&cpu, "system_usec") * 1000;
            usage.memory = number("", "memory.current");
            usage.memory_details = counted(&file("", "memory.stat"));
            let waited = keyed(&cpu, "throttled_usec") * 1000;
            usage.throttled = (keyed(&cpu, "nr_periods"), keyed(&cpu, "nr_throttled"), waited);
            limit = number("", "memory.max");
            usage.blocks = io_stat(&file("", "io.stat"));
        } else {
            usage.cpu_total = number("cpuacct", "cpuacct.usage");
            // In ticks of a hundredth of a second (USER_HZ).
            let cpu = file("cpuacct", "cpuacct.stat");
            usage.cpu_user = keyed(&cpu, "user") * 10_000_000;
            usage.cpu_system = keyed(&cpu, "system") * 10_000_000;
            usage.memory = number("memory", "memory.usage_in_bytes");
            usage.memory_details = counted(&file("memory", "memory.stat"));
            let quota = file("cpu", "cpu.stat");
            usage.throttled = (keyed(&quota, "nr_periods"), keyed(&quota, "nr_throttled"), keyed(&quota, "throttled_time"));
            limit = number("memory", "memory.limit_in_bytes");
            usage.blocks = service_bytes(&file("blkio", "blkio.throttle.io_service_bytes_recursive"));
        }
        usage.memory_limit = if limit == 0 { host_memory } else { limit.min(host_memory) };
        usage
    }
}

/// Lines of a name and a number.
fn counted(text: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn traffic_of(container: &Container) -> Vec<(String, Traffic)> {
    let (pid, own) = container.with_record(|record| (record.state.pid, record.spec.network_mode.has_own_namespace()));
    if pid == 0 || !own {
        return Vec::new();
    }
    traffic(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn names_of_users() -> HashMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((fields.nth(1)?.parse().ok()?, name.to_string()))
    };
    text.lines().filter_map(line).collect()
}

/// Seconds since 1970.
fn booted_at() -> i64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

fn process(pid: i32, users: &HashMap<u32, String>, booted: i64) -> Option<Process> {
    use std::os::unix::fs::MetadataExt;
    const TICKS: u64 = 100;
    let directory = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name is in brackets, and may itself hold brackets and spaces.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let uid = fs::metadata(&directory).ok()?.uid();
    let ticks = number(11) + number(12);
    let started = booted + (number(19) / TICKS) as i64;
    let now = jiff::Timestamp::now().as_second();
    let seconds = ticks / TICKS;
    let zone = jiff::tz::TimeZone::system();
    let time = jiff::Timestamp::from_second(started).ok()?.to_zoned(zone.clone());
    let today = jiff::Timestamp::now().to_zoned(zone).date() == time.date();
    let line = fs::read(format!("{directory}/cmdline")).ok()?;
    let line: Vec<String> =
        line.split(|b| *b == 0).filter(|part| !part.is_empty()).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    Some(Process {
        user: users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        pid,
        ppid: number(1) as i32,
        cpu: (ticks * 100 / TICKS).checked_div((now - started).max(1) as u64).unwrap_or(0),
        started: time.strftime(if today { "%H:%M" } else { "%b%d" }).to_string(),
        tty: terminal(number(4)),
        time: format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command: if line.is_empty() { format!("[{name}]") } else { line.join(" ") },
    })
}

/// `pts/3` from the device's number of the controlling terminal.
fn terminal(device: u64) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("tty{minor}"),
    }
}

/// Nanoseconds of all processors, as the first line of /proc/stat counts them.
fn host_cpu() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // Guests' time is in the users' already.
    line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10_000_000
}

fn keyed_kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// cgroup v2's io.stat: `MAJOR:MINOR rbytes=N wbytes=N ...`.
fn io_stat(text: &str) -> Vec<(u64, u64, u64, u64)> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let value = |key: &str| rest.split(' ').find_map(|field| field.strip_prefix(key)?.parse().ok()).unwrap_or(0);
        Some((major.parse().ok()?, minor.parse().ok()?, value("rbytes="), value("wbytes=")))
    };
    text.lines().filter_map(line).collect()
}

/// cgroup v1's blkio.throttle.io_service_bytes_recursive: `MAJOR:MINOR Read N`.
fn service_bytes(text: &str) -> Vec<(u64, u64, u64, u64)> {
    let mut all: Vec<(u64, u64, u64, u64)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [device, kind, bytes] = words[..] else { continue };
        let Some((Ok(major), Ok(minor))) = device.split_once(':').map(|(a, b)| (a.parse(), b.parse())) else { continue };
        let bytes = bytes.parse().unwrap_or(0);
        let at = all.iter().position(|d| (d.0, d.1) == (major, minor)).unwrap_or_else(|| {
            all.push((major, minor, 0, 0));
            all.len() - 1
        });
        match kind {
            "Read" => all[at].2 = bytes,
            "Write" => all[at].3 = bytes,
            _ => {}
        }
    }
    all
}

/// /proc/PID/net/dev without the loopback interface.
fn traffic(text: &str) -> Vec<(String, Traffic)> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = n[..]
        else {
            return None;
        };
        let traffic = Traffic { rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped };
        Some((name.trim().to_string(), traffic))
    };
    text.lines().filter_map(line).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(io_stat("254:0 rbytes=10 wbytes=20 rios=1\n"), [(254, 0, 10, 20)]);
        assert_eq!(service_bytes("254:0 Read 10\n254:0 Write 20\n254:0 Total 30\nTotal 30\n"), [(254, 0, 10, 20)]);
        let dev =
            "Inter-| Receive\n face |bytes\n    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n  eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let read = traffic(dev);
        assert_eq!((read.len(), read[0].0.as_str(), read[0].1.rx_bytes, read[0].1.tx_dropped), (1, "eth0", 1, 8));
        assert_eq!((terminal(0x8803), terminal(0)), ("pts/3".into(), "?".into()));
        let own = process(std::process::id() as i32, &HashMap::new(), booted_at()).expect("ourselves");
        assert!(own.command.contains("wharf") && own.ppid > 0);
        assert!(host_cpu() > 0 && keyed_kilobytes("MemTotal:  8 kB\n", "MemTotal:") == 8192);
    }
}
