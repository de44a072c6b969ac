//! The page: files that are part of the program and served as they are.

/// Path, content type and bytes of each file.
pub(super) const FILES: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("index.html")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_bytes!("page.js")),
    ("/words.js", "text/javascript; charset=utf-8", include_bytes!("words.js")),
];
