//! Extended attributes of a file that is open (xattr(7)).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_char;

/// The value of the attribute `name` of the file behind `descriptor`, which may have been opened with `O_PATH`: it is asked
/// for through /proc. `None`: the file has no such attribute.
///
/// # Errors
/// The kernel's, for instance `ENOTSUP` from a file system without attributes, and `ENOENT` without /proc.
pub fn of(descriptor: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    /// `XATTR_SIZE_MAX` of `linux/limits.h`.
    const MOST: usize = 65_536;
    let mut path = format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into_bytes();
    path.push(0);
    let mut value = vec![0_u8; MOST];
    // SAFETY: getxattr(2): "retrieves the value of the extended attribute identified by name and associated with the given
    // path". Both strings end with a zero byte, and live until the call returns. "size specifies the size of value": the
    // kernel writes no more than that into the buffer above.
    let length =
        unsafe { libc::getxattr(path.as_ptr().cast::<c_char>(), name.as_ptr(), value.as_mut_ptr().cast(), MOST) };
    match usize::try_from(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            error => Err(error),
        },
    }
}
