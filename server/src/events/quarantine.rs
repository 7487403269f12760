//! Rows that could not be taken, with the reason: a JSON-lines file, made when the first one comes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::UserKey;

/// Of a refused row, this much is kept.
const ROW_MAX_BYTES: usize = 4_096;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The file's name.
    pub file: String,
    /// One-based.
    pub line: u64,
    /// The field and the rule that it breaks.
    pub reason: String,
    /// Whose row it is, where that can be told: so that ForgetUser finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserKey>,
    /// The row, cut, with what is not UTF-8 replaced.
    pub row: String,
}

/// One such file.
pub struct Quarantine {
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Quarantine {
    /// Makes nothing yet.
    pub fn new(path: PathBuf) -> Quarantine {
        Quarantine { path, file: None }
    }

    /// Adds a row.
    pub fn keep(&mut self, mut refused: Refused) -> io::Result<()> {
        let mut end = refused.row.len().min(ROW_MAX_BYTES);
        while !refused.row.is_char_boundary(end) {
            end -= 1;
        }
        refused.row.truncate(end);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                none.insert(BufWriter::new(File::create(&self.path)?))
            }
        };
        serde_json::to_writer(&mut *file, &refused)?;
        file.write_all(b"\n")
    }

    /// Writes it out; gives its path if there is one.
    pub fn finish(self) -> io::Result<Option<PathBuf>> {
        let Some(mut file) = self.file else { return Ok(None) };
        file.flush()?;
        Ok(Some(self.path))
    }
}

/// Removes a user's rows from every quarantine file of the folder; gives how many. A row of nobody in particular goes
/// too when it holds the user's id: better one refused row less than one trace more. Blocking.
pub fn erase(folder: &Path, keys: &[UserKey]) -> io::Result<u64> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut erased = 0;
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            erased += erase_from(&path, keys)?;
        }
    }
    Ok(erased)
}

/// Writes the file anew beside itself and renames it into place, so that a crash leaves one of the two whole.
fn erase_from(path: &Path, keys: &[UserKey]) -> io::Result<u64> {
    let theirs = |line: &str| match serde_json::from_str::<Refused>(line) {
        Ok(Refused { user: Some(user), .. }) => keys.contains(&user),
        Ok(Refused { row, .. }) => keys.iter().any(|key| row.contains(key.id())),
        Err(_) => keys.iter().any(|key| line.contains(key.id())),
    };
    let lines: Vec<String> = BufReader::new(File::open(path)?).lines().collect::<Result<_, _>>()?;
    let kept: Vec<&String> = lines.iter().filter(|line| !theirs(line)).collect();
    let erased = (lines.len() - kept.len()) as u64;
    if erased > 0 {
        let beside = path.with_extension("tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        for line in kept {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
    }
    Ok(erased)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_rows_are_erased_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/q.jsonl");
        let mut quarantine = Quarantine::new(path.clone());
        let refused = |user: Option<&str>, row: &str| Refused {
            file: "events.csv".to_owned(),
            line: 2,
            reason: "value: must be finite".to_owned(),
            user: user.map(UserKey::user),
            row: row.to_owned(),
        };
        quarantine.keep(refused(Some("ann"), "x")).unwrap();
        quarantine.keep(refused(Some("bob"), "said ann")).unwrap();
        quarantine.keep(refused(None, "garbled ann row")).unwrap();
        quarantine.keep(refused(None, &"é".repeat(5_000))).unwrap();
        assert_eq!(quarantine.finish().unwrap(), Some(path.clone()));
        assert_eq!(erase(path.parent().unwrap(), &[UserKey::user("ann")]).unwrap(), 2);
        let left = std::fs::read_to_string(&path).unwrap();
        assert!(left.lines().count() == 2 && left.contains("u:bob"));
        assert_eq!(erase(&folder.path().join("missing"), &[UserKey::user("ann")]).unwrap(), 0);
    }

    #[test]
    fn no_refused_row_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Quarantine::new(folder.path().join("q.jsonl")).finish().unwrap(), None);
    }
}
