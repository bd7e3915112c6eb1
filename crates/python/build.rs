//! Passes the option with which macOS links a module of Python. It is none elsewhere.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
