//! Which callables a pickle may name. They are recognized by name; none is ever run.

use super::Dialect;

/// Bytes of a module and a name together, at most; longer ones are made to waste memory.
const MAX_NAME: usize = 300;

/// Characters of a name that a message shows.
const MAX_SHOWN: usize = 120;

/// A callable whose result this reader knows how to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callable {
    /// numpy's empty array, filled by BUILD.
    Reconstruct,
    /// numpy's scalar of a type and bytes.
    Scalar,
    /// numpy's array of protocol 5.
    FromBuffer,
    /// `numpy.dtype`.
    Dtype,
    /// `numpy.ndarray`, only as an argument.
    NdArray,
    /// `_codecs.encode`, which protocol 2 needs for bytes.
    Encode,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `set`.
    Set,
    /// `frozenset`.
    FrozenSet,
    /// `bytes`.
    Bytes,
    /// `bytearray`.
    ByteArray,
    /// `complex`.
    Complex,
}

impl Callable {
    /// The name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reconstruct => "numpy.core.multiarray._reconstruct",
            Self::Scalar => "numpy.core.multiarray.scalar",
            Self::FromBuffer => "numpy.core.numeric._frombuffer",
            Self::Dtype => "numpy.dtype",
            Self::NdArray => "numpy.ndarray",
            Self::Encode => "_codecs.encode",
            Self::OrderedDict => "collections.OrderedDict",
            Self::Set => "builtins.set",
            Self::FrozenSet => "builtins.frozenset",
            Self::Bytes => "builtins.bytes",
            Self::ByteArray => "builtins.bytearray",
            Self::Complex => "builtins.complex",
        }
    }

    /// The callable of exactly this name.
    fn from_name(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Self::Reconstruct
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::Scalar,
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::FromBuffer,
            ("numpy", "dtype") => Self::Dtype,
            ("numpy", "ndarray") => Self::NdArray,
            ("_codecs", "encode") => Self::Encode,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("builtins" | "__builtin__", "set") => Self::Set,
            ("builtins" | "__builtin__", "frozenset") => Self::FrozenSet,
            ("builtins" | "__builtin__", "bytes") => Self::Bytes,
            ("builtins" | "__builtin__", "bytearray") => Self::ByteArray,
            ("builtins" | "__builtin__", "complex") => Self::Complex,
            _ => return None,
        })
    }
}

/// What a name in a pickle stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// A callable that this reader knows.
    Known(Callable),
    /// Anything else, kept by its name.
    Opaque(String),
}

/// Packages that no checkpoint needs and that attacks are made of.
const NEVER: [&str; 55] = [
    "__builtin__",
    "_ctypes",
    "_io",
    "_operator",
    "_pickle",
    "_posixsubprocess",
    "_socket",
    "asyncio",
    "bdb",
    "builtins",
    "cPickle",
    "cProfile",
    "cloudpickle",
    "code",
    "codeop",
    "commands",
    "concurrent",
    "ctypes",
    "dill",
    "distutils",
    "fcntl",
    "ftplib",
    "http",
    "httplib",
    "idlelib",
    "imp",
    "importlib",
    "io",
    "joblib",
    "linecache",
    "marshal",
    "multiprocessing",
    "nt",
    "operator",
    "os",
    "pdb",
    "pickle",
    "pip",
    "pkgutil",
    "popen2",
    "posix",
    "posixpath",
    "profile",
    "pty",
    "runpy",
    "shutil",
    "signal",
    "smtplib",
    "socket",
    "subprocess",
    "sys",
    "timeit",
    "types",
    "urllib",
    "webbrowser",
];

/// Types of Python that are harmless as the class of something opaque.
const PLAIN_TYPES: [&str; 10] = [
    "bool", "dict", "float", "int", "list", "long", "object", "str", "tuple", "unicode",
];

/// What `module` and `name` stand for, or why they are refused.
pub(super) fn resolve(module: &str, name: &str, dialect: Dialect) -> Result<Global, String> {
    if let Some(callable) = Callable::from_name(module, name) {
        return Ok(Global::Known(callable));
    }
    let root = module.split('.').next().unwrap_or_default();
    let is_plain_type = matches!(module, "builtins" | "__builtin__") && PLAIN_TYPES.contains(&name);
    let is_refused = dialect == Dialect::Numpy
        || name.contains('.')
        || module.is_empty()
        || name.is_empty()
        || module.len() + name.len() > MAX_NAME
        || (NEVER.contains(&root) && !is_plain_type);
    if is_refused {
        return Err(format!(
            "names `{}`, which is not among the few callables that are allowed; nothing was \
             executed, and the file should not be trusted",
            full_name(module, name)
        ));
    }
    Ok(Global::Opaque(format!("{module}.{name}")))
}

/// Module and name for a message, shortened and without control characters.
pub(super) fn full_name(module: &str, name: &str) -> String {
    let letters = module.chars().take(MAX_SHOWN);
    let letters = letters.chain(std::iter::once('.'));
    let letters = letters.chain(name.chars().take(MAX_SHOWN));
    letters.flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_allowed() {
        for (module, name) in [
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("collections", "OrderedDict"),
        ] {
            let found = resolve(module, name, Dialect::Numpy).unwrap();
            assert!(matches!(found, Global::Known(_)));
        }
        for (module, name) in [
            ("numpy.testing", "runstring"),
            ("numpy", "lib.os.system"),
            ("numpy", "load"),
            ("pandas.core.frame", "DataFrame"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("", ""),
        ] {
            let reason = resolve(module, name, Dialect::Numpy).unwrap_err();
            assert!(reason.contains(&format!("`{module}.{name}`")), "{reason}");
        }
    }

    #[test]
    fn checkpoints_may_name_classes_but_no_ways_to_run_code() {
        let found = resolve("argparse", "Namespace", Dialect::Torch).unwrap();
        assert_eq!(found, Global::Opaque("argparse.Namespace".to_owned()));
        assert!(resolve("__builtin__", "object", Dialect::Torch).is_ok());
        for (module, name) in [
            ("os", "system"),
            ("os.path", "join"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("torch", "os.system"),
            ("importlib._bootstrap", "_gcd_import"),
        ] {
            assert!(
                resolve(module, name, Dialect::Torch).is_err(),
                "{module}.{name}"
            );
        }
        let long = "x".repeat(10_000);
        let reason = resolve("torch", &long, Dialect::Torch).unwrap_err();
        assert!(reason.len() < 1000, "{reason}");
    }
}
