//! A file that holds a key, read so that no copy of it stays behind in memory.
//!
//! The standard library's readers grow a buffer by moving it, and leave what was moved from. Here every
//! buffer is erased when it is given up. What is made of the text is its owner's to erase.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use control::Secret;
use zeroize::Zeroizing;

/// Reads `path` as text of at most `longest` bytes.
///
/// # Errors
///
/// It cannot be read; [`io::ErrorKind::FileTooLarge`]: it is longer; [`io::ErrorKind::InvalidData`]: it
/// is no UTF-8.
pub(crate) fn read(path: &Path, longest: usize) -> io::Result<Secret> {
    let mut file = File::open(path)?;
    let said = usize::try_from(file.metadata()?.len()).unwrap_or(longest);
    // A byte more than the file has, so that its end is seen without growing.
    let mut text = Zeroizing::new(vec![0; said.min(longest) + 1]);
    let mut filled = 0;
    loop {
        if filled > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if filled == text.len() {
            let mut larger = Zeroizing::new(vec![0; text.len() * 2]);
            larger
                .iter_mut()
                .zip(&*text)
                .for_each(|(to, from)| *to = *from);
            text = larger;
        }
        match file.read(text.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    match String::from_utf8(std::mem::take(&mut *text)) {
        Ok(text) => Ok(Secret::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_and_no_further_than_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for length in [0, 1, 100, 5000] {
            let text = "k".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path, 5000).unwrap().expose(), text);
        }
        let too_long = read(&path, 4999).unwrap_err();
        assert_eq!(too_long.kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&path, b"\xff").unwrap();
        let no_text = read(&path, 10).unwrap_err();
        assert_eq!(no_text.kind(), io::ErrorKind::InvalidData);
        // A file whose length is not said before.
        let status = read(Path::new("/proc/self/status"), 1 << 20).unwrap();
        assert!(status.expose().contains("VmRSS"));
    }

    #[test]
    fn nothing_of_a_key_stays_in_memory_once_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        // Made by another process, and known here only backwards.
        let make = "head -c 3000 /dev/urandom | base64 -w0 | tee \"$1\" | rev";
        let mut shell = std::process::Command::new("sh");
        let told = shell.args(["-c", make, "sh"]).arg(&path).output().unwrap();
        let backwards = told.stdout.trim_ascii();
        let wanted: Vec<&[u8]> = backwards.chunks_exact(40).step_by(33).collect();
        assert_eq!(wanted.len(), 4);
        drop(read(&path, 1 << 20).unwrap());
        let found = wanted.iter().filter(|part| is_in_memory(part)).count();
        assert_eq!(found, 0);
    }

    /// Whether this process holds the reverse of `backwards` anywhere.
    fn is_in_memory(backwards: &[u8]) -> bool {
        use std::os::unix::fs::FileExt;
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines()
            .filter(|line| line.contains(" rw-p "))
            .any(|line| {
                let (from, rest) = line.split_once('-').unwrap();
                let to = rest.split(' ').next().unwrap();
                let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
                let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
                let read = memory.read_at(&mut bytes, from).unwrap_or(0);
                bytes[..read]
                    .windows(backwards.len())
                    .any(|window| window.iter().eq(backwards.iter().rev()))
            })
    }
}
