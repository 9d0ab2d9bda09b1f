//! Rails apps that cannot be built: one clear error, and what to do.

use std::fs;

use crate::bad_input::refused;
use crate::gems::{can, edit, forge, seedswap, warm};
use crate::support::{Forge, give};

/// Refuses the example with a change to its files.
#[track_caller]
fn changed(change: &[(&str, &str, &str)], code: i32, parts: &[&str]) -> String {
    let app = seedswap("bad");
    for (path, old, new) in change {
        edit(&app, path, old, new);
    }
    refused(&forge(&warm().store), &app, code, parts)
}

/// Refuses the example with one more initializer.
#[track_caller]
fn initialized(text: &str, parts: &[&str]) -> String {
    let app = seedswap("bad");
    fs::write(app.join("config/initializers/more.rb"), text).unwrap();
    give(&app);
    refused(&forge(&warm().store), &app, 1, parts)
}

#[test]
fn gemfiles_and_locks() {
    if !can() {
        return;
    }
    let app = seedswap("bad");
    fs::remove_file(app.join("Gemfile.lock")).unwrap();
    refused(
        &forge(&warm().store),
        &app,
        1,
        &[
            "error: Gemfile: there is a Gemfile and no Gemfile.lock",
            "→ run `bundle lock` and commit",
        ],
    );
    changed(
        &[("Gemfile.lock", "x86_64-linux", "arm64-darwin-23")],
        1,
        &[
            "Gemfile.lock is for arm64-darwin-23 only",
            "→ run `bundle lock --add-platform x86_64-linux`",
        ],
    );
    changed(
        &[("Gemfile", "ruby \"~> 3.3.0\"", "ruby \">= 3.4\"")],
        1,
        &[
            "error: Gemfile:5: ",
            "it asks for `>= 3.4`",
            "→ forge has 3.3.8 (Debian 13) and 3.1.2 (Debian 12)",
        ],
    );
    changed(
        &[("Gemfile", "gem \"puma\"", "gem \"puma\"\ngem \"rack-attack\"")],
        1,
        &["Gemfile has `rack-attack`, Gemfile.lock does not", "→ run `bundle lock` and commit"],
    );
    // What only Bundler finds out.
    changed(
        &[("Gemfile", "gem \"sidekiq\"", "gem \"sidekiq\", \"~> 8.0\"")],
        1,
        &["step `gems-fetch` failed", "→ Gemfile and Gemfile.lock do not agree: run `bundle lock`"],
    );
}

#[test]
fn gems_that_cannot_be_had() {
    if !can() {
        return;
    }
    let other = ("Gemfile.lock", "    mini_mime (1.1.5)", "    mini_mime (1.1.9)");
    changed(
        &[other],
        1,
        &[
            "step `gems-fetch` failed",
            "→ the gem server has no `mini_mime` 1.1.9",
            "BUNDLE_MIRROR__ALL",
        ],
    );
    let app = seedswap("bad");
    edit(&app, other.0, other.1, other.2);
    // Nobody listens on the port of `discard`.
    refused(
        &Forge::new(&warm().store).with("BUNDLE_MIRROR__ALL", "http://127.0.0.1:9"),
        &app,
        4,
        &["→ the gem server `http://127.0.0.1:9/` cannot be reached", "BUNDLE_MIRROR__ALL"],
    );
    // Without a mirror the Gemfile's server is asked, which does not exist.
    refused(
        &Forge::new(&warm().store),
        &app,
        4,
        &[
            "→ the gem server `gems.example` cannot be reached",
            "bundle config set --global mirror.all",
        ],
    );
}

#[test]
fn a_header_that_is_missing() {
    if !can() {
        return;
    }
    let story = changed(
        &[
            ("Gemfile", "gem \"pg\"", "gem \"pcap-peek\"\ngem \"pg\""),
            ("Gemfile.lock", "    pg (", "    pcap-peek (1.0.0)\n    pg ("),
            ("Gemfile.lock", "\n  pg\n", "\n  pcap-peek\n  pg\n"),
        ],
        1,
        &[
            "step `gems-rest` failed",
            "→ the headers of a library are missing: add `[packages] build = [\"libpcap-dev\"]`",
        ],
    );
    assert!(!story.contains("find its Debian package"), "{story}");
}

#[test]
fn what_an_app_asks_for_while_it_is_loaded() {
    if !can() {
        return;
    }
    let key = "Rails.application.config.x.key = ENV.fetch(\"STRIPE_KEY\")\n";
    initialized(
        key,
        &[
            "step `assets` failed",
            "→ the app reads the variable `STRIPE_KEY`",
            "`[build.environment] STRIPE_KEY = ",
        ],
    );
    let query = "Rails.application.config.x.tables = ActiveRecord::Base.connection.tables";
    let story = initialized(
        query,
        &[
            "step `assets` failed",
            "→ the app asks its database",
            "unless ENV[\"SECRET_KEY_BASE_DUMMY\"]",
        ],
    );
    assert!(!story.contains("runs without network"), "one cause, one advice:\n{story}");
    // What the advice says works.
    let app = seedswap("mended");
    let guarded = format!("{key}{query} unless ENV[\"SECRET_KEY_BASE_DUMMY\"]\n");
    fs::write(app.join("config/initializers/more.rb"), guarded).unwrap();
    fs::write(app.join("forge.toml"), "[build.environment]\nSTRIPE_KEY = \"placeholder\"\n")
        .unwrap();
    give(&app);
    forge(&warm().store).build(&app, &[]);
}
