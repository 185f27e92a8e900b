//! What the destinations of one session share, whichever worker they belong to.

use super::shared_file::{CannotCreate, SharedFile};
use crate::config::plan::FilePath;

/// What the destinations of one session share. Made once a session; whoever opens a destination, for whichever worker,
/// finds here what was opened before.
#[derive(Debug, Default)]
pub struct SharedEnds {
    files: Vec<(FilePath, SharedFile)>,
}

impl SharedEnds {
    /// The capture file of that name, created unless another destination or worker has done so in this session.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub(super) fn file(&mut self, path: &FilePath) -> Result<SharedFile, CannotCreate> {
        if let Some((_, file)) = self.files.iter().find(|(known, _)| known == path) {
            return Ok(file.clone());
        }
        let file = SharedFile::create(path)?;
        self.files.push((path.clone(), file.clone()));
        Ok(file)
    }
}
