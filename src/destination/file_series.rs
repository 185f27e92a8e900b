//! The names of capture files that follow each other: sortable, and never one that is there already.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::output_file::{self, OutputFile};
use crate::config::local_end::{FileMode, Rotation};

/// UTC when the file was begun: `20261124T203015.123Z`.
const TIME: &str = "{time}";
/// A number that rises from file to file: `000001`. Without `{time}` it goes on behind the files that are there.
const NUMBER: &str = "{number}";

/// The largest number that a series goes on from: a file a millisecond for 30,000 years.
const MOST_NUMBER: u64 = 1_000_000_000_000_000;

/// The latest time of a name by the clock, in seconds since 1970: a day before the year 10000, so that more names follow.
const LATEST: Duration = Duration::from_secs(253_402_300_799 - 86_400);

/// Where the next capture file goes.
#[derive(Debug)]
pub(super) struct FileSeries {
    directory: PathBuf,
    /// The file's name with its placeholders.
    name: String,
    /// Of the next file.
    number: u64,
    /// The files of this run that still stand, oldest first, where only some are kept.
    kept: VecDeque<PathBuf>,
    keep: Option<usize>,
    /// The time in the latest name, while the clock shows none that a name can have.
    beyond_clock: Option<SystemTime>,
    /// Permissions of each file.
    mode: FileMode,
}

impl FileSeries {
    /// The series that `path` means. A rotated file whose name has no placeholder gets the time into its name.
    pub(super) fn new(path: &Path, rotation: &Rotation, mode: FileMode) -> Self {
        // `/` and `..` name no file; the kernel will say so.
        let (directory, name) = match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) => (directory.to_owned(), name),
            _ => (path.to_owned(), OsStr::new("")),
        };
        let mut name = name.to_string_lossy().into_owned();
        if rotation.is_on() && !has_placeholder(&name) {
            let suffix = name.rfind('.').filter(|&dot| dot > 0).unwrap_or(name.len());
            name.insert_str(suffix, "-{time}");
        }
        let number = if name.contains(TIME) { 1 } else { last_number(&directory, &name).saturating_add(1) };
        Self { directory, name, number, kept: VecDeque::new(), keep: rotation.keep, beyond_clock: None, mode }
    }

    /// Begins the next file, after the oldest ones have made room for it. A name without placeholders is one file for
    /// ever, begun anew; every other name is one that no file had.
    pub(super) fn begin(&mut self) -> io::Result<(PathBuf, OutputFile)> {
        /// Files that others may have made at the same moment.
        const ATTEMPTS: u32 = 1000;
        self.make_room();
        if !has_placeholder(&self.name) {
            let path = self.directory.join(&self.name);
            let file = output_file::begin(&path, self.mode)?;
            return Ok((path, file));
        }
        let mut time = self.next_time(SystemTime::now());
        for _ in 0..ATTEMPTS {
            let path = self.directory.join(self.name_of(time));
            match output_file::create(&path, self.mode) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    self.number = self.number.saturating_add(1);
                    time += Duration::from_millis(1);
                }
                Err(error) => return Err(error),
                Ok(file) => {
                    self.beyond_clock = self.beyond_clock.map(|_| time);
                    return Ok((path, file));
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// The time for the next name, when the clock shows `now`. Beyond the times that a name can have, names are a millisecond
    /// apart: the clock would give all of them the same one.
    fn next_time(&mut self, now: SystemTime) -> SystemTime {
        let time = now.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LATEST);
        if time == now {
            self.beyond_clock = None;
            return time;
        }
        *self.beyond_clock.insert(self.beyond_clock.map_or(time, |last| time.max(last + Duration::from_millis(1))))
    }

    /// Remembers that the file at `path` stands: the next one has the next number.
    pub(super) fn settle(&mut self, path: PathBuf) {
        self.number = self.number.saturating_add(1);
        if self.keep.is_some() {
            self.kept.push_back(path);
        }
    }

    fn name_of(&self, time: SystemTime) -> String {
        // RFC 3339 has years of four digits, and humantime none before 1970: a clock beyond them gives the nearest time.
        const LAST: Duration = Duration::from_secs(253_402_300_799);
        let time = time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST);
        let time = humantime::format_rfc3339_millis(time).to_string().replace(['-', ':'], "");
        self.name.replace(TIME, &time).replace(NUMBER, &format!("{:06}", self.number))
    }

    /// Removes the oldest files of this run until one more may stand.
    fn make_room(&mut self) {
        while self.keep.is_some_and(|keep| self.kept.len() >= keep)
            && let Some(oldest) = self.kept.pop_front()
        {
            match fs::remove_file(&oldest) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!("cannot remove the capture file `{}`: {error}", oldest.display());
                }
                _ => {}
            }
        }
    }
}

fn has_placeholder(name: &str) -> bool {
    name.contains(TIME) || name.contains(NUMBER)
}

/// The highest number of the files in `directory` that are called like `name`; 0 without any. A larger number than a series
/// reaches is another program's, or was put there so that the numbers end.
fn last_number(directory: &Path, name: &str) -> u64 {
    let Some((before, after)) = name.split_once(NUMBER) else { return 0 };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = directory.read_dir() else { return 0 };
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let digits = name.strip_prefix(before)?.strip_suffix(after)?;
        // `+1` reads as a number too, and is no name of ours.
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    entries.flatten().filter_map(number).filter(|&number| number <= MOST_NUMBER).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn series(path: &Path, keep: Option<usize>) -> FileSeries {
        FileSeries::new(path, &Rotation { size: Some(1 << 20), time: None, keep }, FileMode::DEFAULT)
    }

    fn begin(series: &mut FileSeries) -> String {
        let (path, _) = series.begin().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        series.settle(path);
        name
    }

    #[test]
    fn a22_a_file_with_the_largest_number_does_not_end_the_series() {
        let directory = tempfile::tempdir().unwrap();
        for number in ["18446744073709551615", "1000000000000001", "000007"] {
            fs::write(directory.path().join(format!("m-{number}.pcap")), "").unwrap();
        }
        let mut series = series(&directory.path().join("m-{number}.pcap"), None);
        assert_eq!(series.begin().unwrap().0, directory.path().join("m-000008.pcap"));
    }

    #[test]
    fn a19_a_clock_before_1970_or_beyond_the_year_9999_gives_the_nearest_time() {
        let series = FileSeries::new(Path::new("x-{time}.pcap"), &Rotation::default(), FileMode::DEFAULT);
        for (time, expected) in [
            (UNIX_EPOCH - Duration::from_secs(220_000_000), "x-19700101T000000.000Z.pcap"),
            (UNIX_EPOCH + Duration::from_secs(400_000_000_000), "x-99991231T235959.000Z.pcap"),
        ] {
            assert_eq!(series.name_of(time), expected);
        }
    }

    #[test]
    fn the_time_is_utc_and_sorts() {
        let series = series(Path::new("/x/mirror.tap.pcap"), None);
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_007);
        assert_eq!(series.name_of(time), "mirror.tap-20231114T221320.007Z.pcap");
        assert_eq!(super::FileSeries { name: ".hidden".into(), ..series }.name, ".hidden");
    }

    #[test]
    fn numbers_go_on_behind_an_earlier_run_and_no_file_is_written_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m-{number}.pcap");
        fs::write(directory.path().join("m-000041.pcap"), "earlier").unwrap();
        fs::write(directory.path().join("m-x.pcap"), "foreign").unwrap();
        let mut first = series(&path, None);
        assert_eq!([begin(&mut first), begin(&mut first)], ["m-000042.pcap", "m-000043.pcap"]);
        fs::write(directory.path().join("m-000044.pcap"), "in between").unwrap();
        assert_eq!(begin(&mut first), "m-000045.pcap");
        assert_eq!(fs::read_to_string(directory.path().join("m-000041.pcap")).unwrap(), "earlier");

        let by_time = directory.path().join("t-{time}.pcap");
        let mut names: Vec<String> = (0..20).map(|_| begin(&mut series(&by_time, None))).collect();
        names.dedup();
        assert_eq!(names.len(), 20, "one a millisecond");
    }

    #[test]
    fn only_files_of_this_run_make_room() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("m-000001.pcap"), "earlier").unwrap();
        let mut series = series(&directory.path().join("m-{number}.pcap"), Some(2));
        for _ in 0..4 {
            begin(&mut series);
        }
        let mut names: Vec<_> = directory.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m-000001.pcap", "m-000004.pcap", "m-000005.pcap"]);
    }

    #[test]
    fn a_name_without_placeholders_is_one_file_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcap");
        fs::write(&path, "earlier").unwrap();
        let mut series = FileSeries::new(&path, &Rotation::default(), FileMode::DEFAULT);
        assert_eq!(begin(&mut series), "a.pcap");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
