//! What a command tells the person who typed it when it cannot go on.
//!
//! Owns: [`Failure`], one line that says what is wrong and what to do.
//! Invariant: never more than one line, whatever a server or a library said; never a secret.
//! Must never know: S3, FUSE, where the line is printed.

use std::fmt;

/// One line; exit status 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    pub fn new(line: impl fmt::Display) -> Failure {
        let mut out = String::new();
        for word in line.to_string().split_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.extend(word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        }
        Failure(out)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_without_control_characters() {
        let failure = Failure::new("first\n  second\t\u{1b}[31mthird\n");
        assert_eq!(failure.to_string(), "first second \u{fffd}[31mthird");
    }
}
