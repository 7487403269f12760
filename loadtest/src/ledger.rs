//! Which events were acknowledged, for whoever counts them in the store.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;

/// A file of ids, a line each.
pub(crate) struct Ledger {
    file: BufWriter<File>,
    failed: Option<io::Error>,
}

impl Ledger {
    /// A new file.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Ledger> {
        let file = File::create(path).with_context(|| format!("--acknowledged: {}", path.display()))?;
        Ok(Ledger { file: BufWriter::new(file), failed: None })
    }

    /// These, too.
    pub(crate) fn note(&mut self, ids: &[String]) {
        for id in ids {
            if let Err(error) = writeln!(self.file, "{id}") {
                self.failed.get_or_insert(error);
            }
        }
    }

    /// Everything that was noted is in the file.
    ///
    /// # Errors
    /// It is not: something could not be written, now or earlier.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.failed.take().map_or(Ok(()), Err).and_then(|()| self.file.flush()).context("--acknowledged")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told() {
        let mut ledger = Ledger::create(Path::new("/dev/full")).unwrap();
        ledger.note(&["a".to_owned()]);
        assert!(format!("{:#}", ledger.flush().unwrap_err()).starts_with("--acknowledged: "));
    }
}
