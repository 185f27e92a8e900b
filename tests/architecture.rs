//! The structure of the source code: which module may import which, and how large folders, functions and enums are.
//!
//! The tests parse every file of `src` and judge what they find by the tables below. A change that needs a new entry in
//! a table needs a reason beside that entry.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemEnum, ItemFn, ItemUse, Macro, TraitItemFn, UseTree, Visibility};

/// A module's path below the crate: `["session", "worker"]`.
type Module = Vec<String>;

/// One file of `src`, without the items that only tests compile.
struct Source {
    path: PathBuf,
    module: Module,
    items: Vec<Item>,
}

/// Every product module of the library, with what each re-exports.
struct Code {
    sources: Vec<Source>,
    modules: BTreeSet<Module>,
    /// Module and name to the module and name that they stand for.
    exports: BTreeMap<(Module, String), (Module, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// `src/session/worker.rs` is `session::worker`, `src/session/mod.rs` is `session`, `src/lib.rs` is the crate.
fn module_of(path: &Path) -> Module {
    let relative = path.strip_prefix(root()).unwrap().with_extension("");
    let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl Code {
    fn read() -> Self {
        let mut paths = Vec::new();
        rust_files(&root(), &mut paths);
        let mut files = Vec::new();
        // Modules that only tests compile are declared so by their parent.
        let mut of_tests: BTreeSet<Module> = BTreeSet::new();
        for path in paths.into_iter().filter(|path| !path.ends_with("src/main.rs")) {
            let module = module_of(&path);
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            let (tests, items): (Vec<Item>, Vec<Item>) =
                file.items.into_iter().partition(|item| is_for_tests(attributes_of(item)));
            for item in tests {
                if let Item::Mod(declared) = item {
                    of_tests.insert([&module[..], &[declared.ident.to_string()]].concat());
                }
            }
            files.push(Source { path, module, items });
        }
        files.retain(|file| !of_tests.iter().any(|test| file.module.starts_with(test)));
        let modules = files.iter().map(|file| file.module.clone()).collect();
        let mut code = Self { sources: files, modules, exports: BTreeMap::new() };
        code.exports = code.re_exports();
        code
    }

    fn re_exports(&self) -> BTreeMap<(Module, String), (Module, String)> {
        let mut exports = BTreeMap::new();
        for source in &self.sources {
            for item in &source.items {
                let Item::Use(item) = item else { continue };
                if matches!(item.vis, Visibility::Inherited) {
                    continue;
                }
                for (path, name) in names_of(&item.tree) {
                    if let Some((module, original)) = self.absolute(&source.module, &path) {
                        exports.insert((source.module.clone(), name), (module, original));
                    }
                }
            }
        }
        exports
    }

    /// The module that a path of `module` leads to, and the name behind it. `None` for other crates.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<(Module, String)> {
        let mut parts = path.iter().map(String::as_str).peekable();
        let mut at: Module = match *parts.peek()? {
            "crate" => Vec::new(),
            "self" | "super" => module.to_vec(),
            first => {
                let child = [module, &[first.to_owned()]].concat();
                if !self.modules.contains(&child) {
                    return None;
                }
                module.to_vec()
            }
        };
        while let Some(part) = parts.next_if(|part| matches!(*part, "crate" | "self" | "super")) {
            if part == "super" {
                at.pop();
            }
        }
        while let Some(part) = parts.next() {
            let child = [&at[..], &[part.to_owned()]].concat();
            if !self.modules.contains(&child) {
                return Some((at, part.to_owned()));
            }
            if parts.peek().is_none() {
                return Some((child, "self".to_owned()));
            }
            at = child;
        }
        Some((at, "self".to_owned()))
    }

    /// The module where the name is defined, through any number of re-exports.
    fn defined(&self, module: Module, name: String) -> Module {
        let mut at = (module, name);
        for _ in 0..8 {
            match self.exports.get(&at) {
                Some(next) => at = next.clone(),
                None => break,
            }
        }
        at.0
    }

    /// Each module with those that it imports.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for source in &self.sources {
            let mut paths = Paths::default();
            source.items.iter().for_each(|item| paths.visit_item(item));
            let found = imports.entry(source.module.clone()).or_default();
            for path in paths.0 {
                // An alias of a module (`use super::view` and then `view::State`) is an import already.
                if let Some((module, name)) = self.absolute(&source.module, &path) {
                    let module = self.defined(module, name);
                    if module != source.module {
                        found.insert(module);
                    }
                }
            }
        }
        imports
    }
}

/// The paths of a `use`, each with the name that it gets.
fn names_of(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    fn walk(prefix: &[String], tree: &UseTree, found: &mut Vec<(Vec<String>, String)>) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => walk(&with(path.ident.to_string()), &path.tree, found),
            UseTree::Name(name) if name.ident == "self" => {
                found.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default()));
            }
            UseTree::Name(name) => found.push((with(name.ident.to_string()), name.ident.to_string())),
            UseTree::Rename(rename) => found.push((with(rename.ident.to_string()), rename.rename.to_string())),
            UseTree::Glob(_) => found.push((prefix.to_vec(), "*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(prefix, tree, found)),
        }
    }
    let mut found = Vec::new();
    walk(&[], tree, &mut found);
    found
}

/// Collects paths that may lead into the crate.
#[derive(Default)]
struct Paths(BTreeSet<Vec<String>>);

impl Paths {
    /// `crate::a::b` inside a macro, whose text is no syntax tree.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    let is_next = !path.is_empty() && colons == 2;
                    if !is_next {
                        self.end(&mut path);
                        if ident != "crate" && ident != "super" {
                            continue;
                        }
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut path);
                    self.tokens(group.stream());
                }
                _ => self.end(&mut path),
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Vec<String>) {
        if !path.is_empty() {
            self.0.insert(std::mem::take(path));
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.0.extend(names_of(&item.tree).into_iter().map(|(path, _)| path));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if parts.len() > 1 && matches!(parts[0].as_str(), "crate" | "super" | "self") {
            self.0.insert(parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "crate".to_owned() } else { module.join("::") }
}

/// Imports between the top-level modules of `src`, without those of tests.
///
/// `quantity`, `wire` and `sys` are at the bottom, `cli` is at the top. A module that is not listed imports no other.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "check",
        &[
            "config",
            "destination",
            "error",
            "escape",
            "flow",
            "installation",
            "kernel",
            "privilege",
            "quantity",
            "session",
            "source",
            "sys",
            "wire",
        ],
    ),
    (
        "cli",
        &[
            "check",
            "compare",
            "config",
            "daemon",
            "destination",
            "error",
            "escape",
            "kernel",
            "ledger",
            "privilege",
            "probe",
            "quantity",
            "session",
            "source",
            "spool",
            "sys",
            "wire",
        ],
    ),
    ("compare", &["config", "error", "flow", "frame", "quantity", "source", "wire"]),
    // `sys`: the access control lists of configuration files.
    ("config", &["error", "flow", "kernel", "quantity", "sys", "wire"]),
    (
        "daemon",
        &[
            "check",
            "config",
            "destination",
            "error",
            "kernel",
            "ledger",
            "privilege",
            "quantity",
            "repeated",
            "select",
            "session",
            "source",
            "spool",
            "sys",
            "wire",
        ],
    ),
    ("decapsulate", &["config", "frame", "ledger", "wire"]),
    (
        "destination",
        &[
            "config",
            "error",
            "flow",
            "frame",
            "kernel",
            "ledger",
            "lengths",
            "let_go",
            "privilege",
            "quantity",
            "repeated",
            "select",
            "sys",
            "wire",
        ],
    ),
    ("error", &["escape"]),
    ("flow", &["wire"]),
    ("frame", &["flow", "ledger", "quantity", "wire"]),
    ("installation", &["flow"]),
    ("kernel", &["config", "error", "quantity", "sys"]),
    ("ledger", &["escape", "quantity", "wire"]),
    ("normalise", &["flow", "frame", "ledger", "quantity", "wire"]),
    ("privilege", &["config", "error", "kernel", "sys"]),
    ("probe", &["destination", "flow", "frame", "kernel", "ledger", "quantity", "wire"]),
    ("select", &["config", "flow", "frame", "kernel", "ledger", "lengths", "quantity", "repeated", "wire"]),
    (
        "session",
        &[
            "config",
            "decapsulate",
            "destination",
            "error",
            "flow",
            "frame",
            "installation",
            "kernel",
            "ledger",
            "normalise",
            "quantity",
            "select",
            "source",
            "sys",
            "wire",
        ],
    ),
    ("source", &["config", "error", "frame", "kernel", "ledger", "let_go", "quantity", "sys", "wire"]),
    ("spool", &["privilege"]),
    ("sys", &["quantity"]),
    ("wire", &["quantity"]),
];

/// Modules that import each other, with the reason. A module may import its ancestors: they define what it shares with
/// its siblings.
const CYCLES: &[(&[&str], &str)] = &[
    (
        &["check::facts", "check::gro", "check::network"],
        "facts hold what the checks of a network found; to be separated",
    ),
    (
        &["config::contest", "config::daemon", "config::limits", "config::load", "config::resolve", "config::tunnels"],
        "the parser of a configuration; to be separated from the plans",
    ),
    (
        &[
            "config::destination_url",
            "config::endpoint",
            "config::keys",
            "config::local_end",
            "config::mistake",
            "config::monitoring",
            "config::netns",
            "config::plan",
            "config::privileges",
            "config::words",
        ],
        "plans and their parser; to be separated",
    ),
    (&["daemon::manager", "daemon::reload"], "a reload's report is part of the manager's answer; to be separated"),
    (
        &["destination::open_error", "destination::socket", "destination::xdp_queue", "destination::zero_copy"],
        "the sockets of the engines; to be separated",
    ),
    (
        &[
            "kernel::links",
            "kernel::nearby",
            "kernel::neighbours",
            "kernel::netlink",
            "kernel::routes",
            "kernel::segmentation",
            "kernel::underlay",
        ],
        "the methods of Netlink; the route to an analyzer is to be separated",
    ),
    (&["ledger::read", "ledger::senders"], "a row of senders is written by one and read by the other"),
    (
        &["wire::checksum", "wire::edit", "wire::layers", "wire::pseudo_header", "wire::shim"],
        "headers and the checksums over them",
    ),
];

/// Functions over 60 lines, each with its limit and the reason.
const LONG_FUNCTIONS: &[(&str, usize, &str)] = &[
    ("config::mistake::hint", 115, "one arm for each mistake"),
    ("config::mistake::example", 91, "one arm for each key"),
    ("destination::socket_bank::send_bucket", 62, "one system call and every result that it may have"),
    ("session::open_among", 65, "the order in which a session is opened"),
    ("session::worker::run", 61, "the worker's loop"),
    ("session::worker::drain", 71, "the closure that frames are lent to"),
    ("source::error::hint", 62, "one arm for each error"),
    ("source::file::read", 61, "one arm for each result of the reader"),
];

/// Enums over 20 variants, each with its limit and the reason.
const LARGE_ENUMS: &[(&str, usize, &str)] = &[
    ("ledger::reason::DropReason", 40, "one variant for each reason that the ledger counts"),
    ("config::mistake::What", 54, "every mistake of a configuration; the variants are to be grouped by area"),
];

/// Folders with more than 14 files, each with its limit and the reason.
const LARGE_FOLDERS: &[(&str, usize, &str)] = &[
    ("wire", 40, "one file for each format"),
    ("sys", 30, "one file for each kernel interface"),
    ("cli", 30, "one file for each command"),
    ("check", 30, "one file for each check"),
    ("config", 25, "plans and their parser; to be separated"),
    ("daemon", 15, "to be divided"),
    ("destination", 33, "tunnels, engines, files and devices; to be divided"),
    ("kernel", 22, "questions to the kernel and routes to analyzers; to be separated"),
    ("session", 17, "to be divided"),
    ("source", 19, "live capture and files; to be divided"),
];

#[test]
fn modules_import_what_the_table_allows() {
    let mut refused = Vec::new();
    for (module, targets) in Code::read().imports() {
        for target in targets {
            let [Some(from), Some(to)] = [module.first(), target.first()] else { continue };
            let is_allowed = ALLOWED.iter().any(|(room, allowed)| room == from && allowed.contains(&to.as_str()));
            if from != to && !is_allowed {
                refused.push(format!("{} imports {}", shown(&module), shown(&target)));
            }
        }
    }
    assert!(refused.is_empty(), "not in the table ALLOWED: {refused:#?}");
}

#[test]
fn the_table_lists_no_import_that_is_not_there() {
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    for (module, targets) in Code::read().imports() {
        for target in targets {
            if let [Some(from), Some(to)] = [module.first(), target.first()] {
                found.insert((from.clone(), to.clone()));
            }
        }
    }
    let listed = ALLOWED.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (*from, *to)));
    let unused: Vec<_> = listed.filter(|(from, to)| !found.contains(&((*from).to_owned(), (*to).to_owned()))).collect();
    assert!(unused.is_empty(), "remove from the table ALLOWED: {unused:?}");
}

#[test]
fn modules_import_each_other_only_where_listed() {
    let mut imports = Code::read().imports();
    for (module, targets) in &mut imports {
        targets.retain(|target| !module.starts_with(target));
    }
    let mut found: Vec<Vec<String>> =
        cycles(&imports).iter().map(|cycle| cycle.iter().map(|module| shown(module)).collect()).collect();
    found
        .retain(|cycle| !CYCLES.iter().any(|(listed, _)| cycle.iter().all(|module| listed.contains(&module.as_str()))));
    assert!(found.is_empty(), "cycles that CYCLES does not list: {found:#?}");
}

#[test]
fn functions_are_at_most_60_lines_long() {
    let mut long = Vec::new();
    for source in Code::read().sources {
        let mut sizes = Sizes::default();
        source.items.iter().for_each(|item| sizes.visit_item(item));
        for (name, lines) in sizes.functions {
            let name = format!("{}::{name}", shown(&source.module));
            let limit = LONG_FUNCTIONS.iter().find(|(listed, ..)| *listed == name).map_or(60, |(_, limit, _)| *limit);
            if lines > limit {
                long.push(format!("{name} ({}): {lines} lines, the limit is {limit}", source.path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn enums_have_at_most_20_variants() {
    let mut large = Vec::new();
    for source in Code::read().sources {
        let mut sizes = Sizes::default();
        source.items.iter().for_each(|item| sizes.visit_item(item));
        for (name, variants) in sizes.enums {
            let name = format!("{}::{name}", shown(&source.module));
            let limit = LARGE_ENUMS.iter().find(|(listed, ..)| *listed == name).map_or(20, |(_, limit, _)| *limit);
            if variants > limit {
                large.push(format!("{name}: {variants} variants, the limit is {limit}"));
            }
        }
    }
    assert!(large.is_empty(), "{large:#?}");
}

#[test]
fn folders_have_at_most_14_files() {
    let mut paths = Vec::new();
    rust_files(&root(), &mut paths);
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for path in paths {
        let folder = path.parent().unwrap().strip_prefix(root()).unwrap();
        *folders.entry(folder.display().to_string()).or_default() += 1;
    }
    folders.retain(|folder, files| {
        *files > LARGE_FOLDERS.iter().find(|(listed, ..)| listed == folder).map_or(14, |(_, limit, _)| *limit)
    });
    assert!(folders.is_empty(), "{folders:#?}");
}

/// The groups of modules that import each other in a circle.
fn cycles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let reach = |from: &Module| {
        let mut seen: BTreeSet<Module> = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(module) = open.pop() {
            for next in imports.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = imports.keys().map(|module| (module, reach(module))).collect();
    let mut cycles = Vec::new();
    let mut done: BTreeSet<&Module> = BTreeSet::new();
    for (&module, targets) in &reached {
        if done.contains(module) || !targets.contains(module) {
            continue;
        }
        let group: Vec<Module> = targets
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(module)))
            .cloned()
            .collect();
        done.extend(reached.keys().filter(|other| group.contains(other)));
        cycles.push(group);
    }
    cycles
}

/// The lines of functions, from signature to closing brace, and the variants of enums.
#[derive(Default)]
struct Sizes {
    functions: Vec<(String, usize)>,
    enums: Vec<(String, usize)>,
}

impl Sizes {
    fn function(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        self.functions.push((name.to_string(), whole.end().line - whole.start().line + 1));
    }
}

impl<'ast> Visit<'ast> for Sizes {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        let start = function.sig.span().start().line;
        self.functions.push((function.sig.ident.to_string(), function.block.span().end().line - start + 1));
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if is_for_tests(&function.attrs) {
            return;
        }
        let start = function.sig.span().start().line;
        self.functions.push((function.sig.ident.to_string(), function.block.span().end().line - start + 1));
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.function(&function.sig.ident, function.span());
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.enums.push((item.ident.to_string(), item.variants.len()));
        visit::visit_item_enum(self, item);
    }
}
