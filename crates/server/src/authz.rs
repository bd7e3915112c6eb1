//! Who may do what: the policy file and the answer for one request.
//!
//! The file has one line for each permission, `p, subject, object, action`. What no line permits is
//! refused. Blank lines and lines that start with `#` say nothing.
//!
//! ```text
//! # The nodes of the cluster.
//! p, seawalld, *, peer
//! # Writes one stream, and reads all.
//! p, billing, orders, produce
//! p, billing, *, consume
//! ```

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Most bytes of a name: of an identity, and of an object in a policy.
const NAME_BYTES_MAX: usize = 255;

/// Stands for every subject, object or action.
const ANY: &str = "*";

/// The permissions of one policy file. It never changes: see [`PolicyHandle`].
#[derive(Debug)]
pub struct Policy {
    /// In plaintext there are no identities, and everything is allowed.
    everything: Everything,
    /// What a line with the subject `*` permits.
    all: Grants,
    by_subject: HashMap<Box<str>, Grants>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Everything {
    Allowed,
    ByLines,
}

impl Policy {
    /// Reads the policy in the file `path`.
    ///
    /// # Errors
    /// One bad line refuses the whole file: half a policy would be a different policy. A file
    /// without a permission is refused too, because it would lock out the nodes of the cluster.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PolicyError> {
        let path = path.as_ref();
        let fail = |line, reason| PolicyError { path: path.to_owned(), line, reason };
        let text = fs::read_to_string(path).map_err(|error| fail(None, Reason::Read(error)))?;
        Self::parse(&text).map_err(|(line, reason)| fail(line, reason))
    }

    /// Returns the policy that allows everything to everyone, for a server without TLS.
    pub fn allow_all() -> Self {
        Self { everything: Everything::Allowed, all: Grants::default(), by_subject: HashMap::new() }
    }

    /// Whether `identity` may do `action` to the stream `stream`.
    ///
    /// The comparison of names is exact, with upper and lower case. For an action on the cluster as
    /// a whole, `stream` is [`CLUSTER`]: only lines with the object `*` permit it.
    pub fn allows(&self, identity: &Identity, action: Action, stream: &str) -> bool {
        let own = || self.by_subject.get(identity.name());
        self.everything == Everything::Allowed
            || self.all.permit(action, stream)
            || own().is_some_and(|grants| grants.permit(action, stream))
    }

    /// Whether a request without an identity may do `action` to `stream`: only lines with the
    /// subject `*` permit it.
    pub(crate) fn allows_anonymous(&self, action: Action, stream: &str) -> bool {
        self.everything == Everything::Allowed || self.all.permit(action, stream)
    }

    fn parse(text: &str) -> Result<Self, (Option<usize>, Reason)> {
        let mut policy = Self { everything: Everything::ByLines, ..Self::allow_all() };
        let mut permissions = 0;
        // Some editors write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            policy.add(line).map_err(|reason| (Some(number), reason))?;
            permissions += 1;
        }
        if permissions == 0 { Err((None, Reason::Empty)) } else { Ok(policy) }
    }

    fn add(&mut self, line: &str) -> Result<(), Reason> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [kind, subject, object, action] = fields[..] else {
            return Err(Reason::Fields { found: fields.len() });
        };
        if kind != "p" {
            return Err(Reason::Kind { found: kind.to_owned() });
        }
        for (field, name) in [("subject", subject), ("object", object)] {
            if name != ANY && !is_name(name) {
                return Err(Reason::Name { field });
            }
        }
        let actions = if action == ANY {
            Actions::ALL
        } else {
            let known = Action::ALL.into_iter().find(|known| known.name() == action);
            Actions::of(known.ok_or_else(|| Reason::Action { found: action.to_owned() })?)
        };
        let grants = match subject {
            ANY => &mut self.all,
            _ => self.by_subject.entry(subject.into()).or_default(),
        };
        match object {
            ANY => grants.on_all.add(actions),
            _ => grants.by_object.entry(object.into()).or_default().add(actions),
        }
        Ok(())
    }
}

/// The object of an action on the cluster as a whole, such as adding a node.
///
/// No stream has this name, and no line of a policy can: only the object `*` covers it.
pub const CLUSTER: &str = "";

/// What a line of a policy permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Append records to a stream.
    Produce,
    /// Read records of a stream, its offsets and its cursors.
    Consume,
    /// Create, trim and delete streams, and change the cluster.
    Admin,
    /// Act as a node of the cluster.
    Peer,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Produce, Self::Consume, Self::Admin, Self::Peer];

    /// The word for the action in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Admin => "admin",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of actions: one bit for each.
#[derive(Clone, Copy, Debug, Default)]
struct Actions(u8);

impl Actions {
    const ALL: Self = Self(0b1111);

    fn of(action: Action) -> Self {
        Self(match action {
            Action::Produce => 1,
            Action::Consume => 1 << 1,
            Action::Admin => 1 << 2,
            Action::Peer => 1 << 3,
        })
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn contains(self, action: Action) -> bool {
        self.0 & Self::of(action).0 != 0
    }
}

/// What one subject may do.
#[derive(Debug, Default)]
struct Grants {
    on_all: Actions,
    by_object: HashMap<Box<str>, Actions>,
}

impl Grants {
    fn permit(&self, action: Action, stream: &str) -> bool {
        self.on_all.contains(action)
            || self.by_object.get(stream).is_some_and(|actions| actions.contains(action))
    }
}

/// The name of a caller, from its certificate. A policy can name each identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Returns the identity `name`: 1 to 255 bytes, without a comma, a quotation mark, a control
    /// character or outer spaces, and not `*`. For any other name it returns `None`.
    pub fn new(name: &str) -> Option<Self> {
        (is_name(name) && name != ANY).then(|| Self(name.into()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a line of a policy can hold the name as it is.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.trim() == name
        && !name.contains([',', '"'])
        && !name.contains(char::is_control)
}

/// A policy file that cannot be used.
#[derive(Debug)]
pub struct PolicyError {
    /// The file.
    pub path: PathBuf,
    /// Number of the bad line, from 1. `None` if no single line is at fault.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub reason: Reason,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for PolicyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The text of the reason is in the text of this error.
        std::error::Error::source(&self.reason)
    }
}

/// What is wrong with a policy file. The text also says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The system did not return the text.
    #[error("cannot be read ({0}): set `policy` to a readable file in UTF-8")]
    Read(#[source] io::Error),
    /// The file has no line with a permission.
    #[error("permits nothing: add a line such as `p, admin, *, *`")]
    Empty,
    /// The line has too few fields or too many.
    #[error("{found} fields instead of 4: write `p, subject, object, action`")]
    Fields {
        /// How many fields the line has.
        found: usize,
    },
    /// The line does not begin with `p`.
    #[error("unknown kind of line {found:?}: only `p, subject, object, action` is known")]
    Kind {
        /// The first field.
        found: String,
    },
    /// The subject or the object is no name.
    #[error("the {field} is no name: write 1 to 255 bytes without quotation marks, or `*`")]
    Name {
        /// Which field it is.
        field: &'static str,
    },
    /// The action is none of the known ones.
    #[error("unknown action {found:?}: write produce, consume, admin, peer or *")]
    Action {
        /// The last field.
        found: String,
    },
}

/// The current policy of a server. Clones share it.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` if the policy is not from a file.
    path: Option<PathBuf>,
    current: RwLock<Arc<Policy>>,
}

impl PolicyHandle {
    /// Reads the policy in the file `path`.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, PolicyError> {
        let path = path.into();
        let policy = Policy::load(&path)?;
        Ok(Self::of(Some(path), policy))
    }

    /// Returns the handle of [`Policy::allow_all`].
    pub fn allow_all() -> Self {
        Self::of(None, Policy::allow_all())
    }

    fn of(path: Option<PathBuf>, policy: Policy) -> Self {
        Self(Arc::new(Shared { path, current: RwLock::new(Arc::new(policy)) }))
    }

    /// The policy at this moment. It stays as it is after a reload.
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again. Every check after the return uses the new policy.
    ///
    /// Without a file it does nothing.
    ///
    /// # Errors
    /// As [`Policy::load`]. The old policy then stays in force.
    pub fn reload(&self) -> Result<(), PolicyError> {
        let Some(path) = &self.0.path else { return Ok(()) };
        let policy = Arc::new(Policy::load(path)?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = policy;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::new(name).expect("the name is good")
    }

    #[test]
    fn a_policy_permits_what_its_lines_say_and_nothing_else() {
        // Method: each identity, action and stream against a table, written by hand. A letter in
        // the table is a permitted action: produce, consume, admin, peer.
        let text = "# comment\n\n  p,node , *,peer\r\np, root, *, *\np, billing, orders, produce\n\
                    p, billing, orders, consume\np, reader, *, consume\np, *, public, consume\n\
                    p, ops, orders, *\n";
        let policy = Policy::parse(text).expect("it is good");
        let streams = ["orders", "public", "other", CLUSTER, "*"];
        let table = [
            ("node", ["r", "cr", "r", "r", "r"]),
            ("root", ["pcar"; 5]),
            ("billing", ["pc", "c", "", "", ""]),
            ("reader", ["c"; 5]),
            ("ops", ["pcar", "c", "", "", ""]),
            ("unknown", ["", "c", "", "", ""]),
            ("Root", ["", "c", "", "", ""]),
        ];
        let letters = ["p", "c", "a", "r"];
        let mut checked = 0;
        for (name, permitted) in table {
            for (stream, permitted) in streams.iter().zip(permitted) {
                for (action, letter) in Action::ALL.into_iter().zip(letters) {
                    let allowed = policy.allows(&identity(name), action, stream);
                    assert_eq!(allowed, permitted.contains(letter), "{name} {action} {stream:?}");
                    checked += 1;
                }
            }
        }
        assert_eq!(checked, 7 * 5 * 4);
        assert!(policy.allows_anonymous(Action::Consume, "public"));
        assert!(!policy.allows_anonymous(Action::Consume, "orders"));
    }

    #[test]
    fn without_a_policy_everything_is_allowed() {
        // Method: ask for each action.
        let policy = Policy::allow_all();
        for action in Action::ALL {
            assert!(policy.allows(&identity("anyone"), action, "any"));
            assert!(policy.allows_anonymous(action, CLUSTER));
        }
    }

    #[test]
    fn one_bad_line_refuses_the_file_and_is_named_with_a_remedy() {
        // Method: put each bad line after good ones, and look at the text of the error.
        let bad = [
            ("p, a, b", "3 fields instead of 4"),
            ("p, a, b, produce, d", "5 fields"),
            ("g, alice, admins, x", "unknown kind of line \"g\""),
            ("p, , b, produce", "the subject is no name"),
            ("p, a, , produce", "the object is no name"),
            ("p, \"a\", b, produce", "the subject is no name"),
            ("p, a, b, write", "unknown action \"write\": write produce"),
            ("p, a, b, Produce", "unknown action"),
            ("p, a, b, produce # why", "unknown action"),
            ("nonsense", "1 fields instead of 4: write `p, subject"),
        ];
        for (line, part) in bad {
            let text = format!("# one\np, root, *, *\n\n{line}\np, a, b, consume\n");
            let (number, reason) = Policy::parse(&text).expect_err(line);
            assert_eq!(number, Some(4), "{line}");
            let error = PolicyError { path: "the.csv".into(), line: number, reason };
            let text = error.to_string();
            assert!(text.starts_with("policy the.csv, line 4: "), "{text}");
            assert!(text.contains(part), "{text}");
        }
        for empty in ["", "\n# only comments\n"] {
            assert!(matches!(Policy::parse(empty), Err((None, Reason::Empty))));
        }
    }

    #[test]
    fn an_identity_is_a_name_that_a_policy_can_hold() {
        // Method: make identities of good names and bad ones. Parse a policy with the good ones.
        let long = "a".repeat(NAME_BYTES_MAX);
        for name in ["a", "Ünal B.", "spiffe://trust/ns", "a@b.example", "#1", long.as_str()] {
            let policy = Policy::parse(&format!("p, {name}, s, peer")).expect(name);
            assert!(policy.allows(&identity(name), Action::Peer, "s"), "{name}");
        }
        let too_long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "*", " a", "a ", "a,b", "a\"", "a\nb", "a\0", too_long.as_str()] {
            assert_eq!(Identity::new(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_bad_new_policy_keeps_the_old_one() {
        // Method: reload a good file, a bad one, an absent one, and again a good one.
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.csv");
        let write = |text: &str| fs::write(&path, text).expect("it can be written");
        write("p, a, s, produce\n");
        let handle = PolicyHandle::load(&path).expect("it is good");
        let may = |action| handle.current().allows(&identity("a"), action, "s");
        assert!(may(Action::Produce) && !may(Action::Consume));
        write("p, a, s, consume\n");
        assert!(!may(Action::Consume), "only a reload changes the policy");
        handle.reload().expect("it is good");
        assert!(!may(Action::Produce) && may(Action::Consume));
        write("p, a, s, produce\np, a, s\n");
        let error = handle.reload().expect_err("it is bad");
        assert_eq!((error.path.as_path(), error.line), (path.as_path(), Some(2)));
        assert!(!may(Action::Produce) && may(Action::Consume));
        fs::remove_file(&path).expect("it exists");
        let error = handle.reload().expect_err("it is absent");
        assert!(matches!(error.reason, Reason::Read(_)) && error.line.is_none(), "{error}");
        assert!(may(Action::Consume));
        write("p, a, s, *\n");
        handle.reload().expect("it is good");
        assert!(may(Action::Produce) && may(Action::Consume));
    }
}
