//! What passes and what does not, tool by tool.

use super::*;

#[track_caller]
fn passes(names: &[&str]) {
    for name in names {
        assert!(matches!(variable(name), Some((_, true))), "{name} is held back");
    }
}

#[track_caller]
fn is_held_back(names: &[&str]) {
    for name in names {
        assert!(matches!(variable(name), Some((_, false))), "{name} passes");
    }
}

#[track_caller]
fn check(tool: Tool, text: &str, expected: &str, withheld: &str) {
    let found = filter(tool, text);
    assert_eq!(found.text, expected);
    assert_eq!(found.withheld.join(" "), withheld);
}

#[test]
fn places_credentials_and_the_way_to_them_pass() {
    passes(&[
        "BUNDLE_MIRROR__ALL",
        "BUNDLE_MIRROR__ALL__FALLBACK_TIMEOUT",
        "BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/",
        "BUNDLE_GEMS__EXAMPLE__COM",
        "BUNDLE_GITHUB__COM",
        "BUNDLE_BUILD__EXAMPLE__COM",
        "BUNDLE_MY___SERVER",
        "BUNDLE_LOCALHOST:9292",
        "BUNDLE_TIMEOUT",
        "BUNDLE_RETRY",
        "BUNDLE_SSL_VERIFY_MODE",
    ]);
    passes(&[
        "npm_config_registry",
        "NPM_CONFIG_REGISTRY",
        "npm_config_https_proxy",
        "npm_config_fetch_retry_mintimeout",
        "npm_config_fetch-retries",
        "npm_config__authToken",
        "npm_config_@team:registry",
        "npm_config_//npm.example/path/:_authToken",
        "npm_config_//npm.example:8080/:_password",
    ]);
    passes(&["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"]);
    passes(&["PIP_PROXY", "PIP_KEYRING_PROVIDER", "PIP_RETRIES", "PIP_FIND_LINKS"]);
    passes(&["UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX_TEAM_PASSWORD"]);
    passes(&["UV_INDEX_TEAM_USERNAME", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS", "UV_INSECURE_HOST"]);
}

#[test]
fn what_chooses_files_is_held_back() {
    is_held_back(&[
        "BUNDLE_FORCE_RUBY_PLATFORM",
        "BUNDLE_WITHOUT",
        "BUNDLE_FROZEN",
        "BUNDLE_PATH",
        "BUNDLE_APP_CONFIG",
        "BUNDLE_BUILD__NOKOGIRI",
        "BUNDLE_LOCAL__RACK",
        "BUNDLE_LOCAL__MY___GEM",
        "BUNDLE_GITHUB__HTTPS",
        "BUNDLE_PREFER_PATCH",
    ]);
    is_held_back(&[
        "npm_config_omit",
        "NPM_CONFIG_INCLUDE",
        "npm_config_legacy_peer_deps",
        "npm_config_platform",
        "npm_config_libc",
        "npm_config_before",
        "npm_config_globalconfig",
        "npm_config_//npm.example/:tokenHelper",
        "npm_config_@team:other",
    ]);
    is_held_back(&["PIP_PRE", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_CONSTRAINT", "PIP_TARGET"]);
    is_held_back(&["PIP_CONFIG_FILE", "PIP_PREFER_BINARY", "PIP_UPLOADED_PRIOR_TO"]);
    is_held_back(&["UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER", "UV_INDEX_STRATEGY"]);
    is_held_back(&["UV_CONSTRAINT", "UV_NO_BINARY", "UV_CONFIG_FILE", "UV_CACHE_DIR", "UV_PIP"]);
    assert_eq!(variable("AWS_SECRET_ACCESS_KEY"), None);
    assert_eq!(variable("YARN_COMPRESSION_LEVEL"), None);
}

#[test]
fn npmrc_files() {
    check(
        Tool::Npm,
        "; a comment\nregistry=https://npm.example/\n  omit = dev\n\
         //npm.example/:_authToken = ${TOKEN}\n//npm.example/:keyfile=/home/me/key\n\
         @team:registry=https://team.example/\nca[]=\"-----BEGIN\"\ns3cret\n\
         cafile=/etc/ca.pem\n\"strict-ssl\" = false\n[section]\nproxy=http://p\n",
        "registry=https://npm.example/\n//npm.example/:_authToken = ${TOKEN}\n\
         @team:registry=https://team.example/\nca[]=\"-----BEGIN\"\n\"strict-ssl\" = false\n",
        "omit //npm.example/:keyfile a line that is no setting cafile",
    );
}

#[test]
fn pip_files() {
    check(
        Tool::Pip,
        "[global]\nindex-url = https://a.example/simple\nno-binary = :all:\n  more\n# c\n\
         extra_index_url =\n    https://b.example/simple\n\n    https://c.example/simple\n\
         cert: /etc/ca.pem\nfind-links = /opt/wheels\n\
         [install]\n  pre = true\n  --timeout: 60\n  constraint = c.txt\n    d.txt\n",
        "[global]\nindex-url = https://a.example/simple\nextra_index_url =\n    \
         https://b.example/simple\n    https://c.example/simple\n[install]\n  --timeout: 60\n",
        "no-binary cert find-links pre constraint",
    );
}

#[test]
fn bundler_files() {
    check(
        Tool::Bundler,
        "---\nBUNDLE_MIRROR__ALL: \"http://127.0.0.1:9292\"\nBUNDLE_WITHOUT: \"development:test\"\n\
         BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/: \"http://a.example/\"\n\
         BUNDLE_GEMS__EXAMPLE__COM: \"me:secret\"\nBUNDLE_FORCE_RUBY_PLATFORM: \"true\"\n\
         BUNDLE_WITH:\n- \"a\"\n- \"b\"\nBUNDLE_RETRY: \"5\"\nMIRROR__ALL: \"x\"\n\
         BUNDLE_LOCAL__A__B: \"/home/me/b\"\n",
        "BUNDLE_MIRROR__ALL: \"http://127.0.0.1:9292\"\n\
         BUNDLE_MIRROR__HTTPS://RUBYGEMS__ORG/: \"http://a.example/\"\n\
         BUNDLE_GEMS__EXAMPLE__COM: \"me:secret\"\nBUNDLE_RETRY: \"5\"\n",
        "BUNDLE_WITHOUT BUNDLE_FORCE_RUBY_PLATFORM BUNDLE_WITH MIRROR__ALL BUNDLE_LOCAL__A__B",
    );
}

#[test]
fn yarn_files() {
    check(
        Tool::Yarn,
        "npmRegistryServer: \"https://npm.example\"\nsupportedArchitectures:\n  os: [linux]\n\n  cpu:\n  \
         - x64\nnpmScopes:\n  team:\n    npmAuthToken: secret\n\"httpProxy\": http://p\n\
         compressionLevel: 0\n{npmAuthToken: x}\n",
        "npmRegistryServer: \"https://npm.example\"\nnpmScopes:\n  team:\n    npmAuthToken: secret\n\
         \"httpProxy\": http://p\n",
        "supportedArchitectures compressionLevel {npmAuthToken",
    );
}

#[test]
fn uv_files() {
    check(
        Tool::Uv,
        "prerelease = \"allow\"\nindex-url = \"https://a.example\"\nindex-strategy = \"x\"\n\
         [pip]\nextra-index-url = [\"https://b.example\"]\nno-binary = [\"a\"]\n\
         [[index]]\nname = \"team\"\nurl = \"https://c.example\"\nexclude-newer = \"2020-01-01\"\n",
        "index-url = \"https://a.example\"\n\n[[index]]\nname = \"team\"\nurl = \"https://c.example\"\n\n\
         [pip]\nextra-index-url = [\"https://b.example\"]\n",
        "index-strategy pip.no-binary prerelease",
    );
    // uv ends with what is wrong with it.
    check(Tool::Uv, "prerelease = \n", "prerelease = \n", "");
}
