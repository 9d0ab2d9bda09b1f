# Makes gems of Debian packages and indexes them. make-gem-server calls it as
# root inside a Debian root; all that it writes stays below WORK:
#
#   ruby gem-server.rb MIRROR WORK
#
#   WORK/list     what to take; read
#   WORK/own      folders of gems that are no packages; read
#   WORK/served   the gems and their index, made anew
#   WORK/debs, WORK/sources, WORK/updated   downloads, kept for the next time
#
# The same packages give the same bytes: SOURCE_DATE_EPOCH is fixed, files are
# sorted, and the umask is ours.

require "digest"
require "fileutils"
require "rubygems/package"
require "tmpdir"
require "zlib"

MIRROR, WORK = ARGV
SUITE = "trixie"
ABI = RbConfig::CONFIG["ruby_version"]                  # "3.3.0"
PLATFORM = "#{RbConfig::CONFIG["host_cpu"]}-linux"      # of gems that carry a library
DAY = 86_400
ENV["SOURCE_DATE_EPOCH"] = "1735689600"
File.umask(0o022)
Gem::DefaultUserInteraction.ui = Gem::SilentUI.new

def die(message) = abort("gem-server: #{message}")

def run(*command, chdir: WORK)
  output = IO.popen(command, err: [:child, :out], chdir: chdir, &:read)
  $?.success? ? output : die("#{command.join(" ")}\n#{output}")
end

# --- what to take -----------------------------------------------------------

Entry = Struct.new(:package, :suite, :flags) do
  def target = "#{package}/#{suite}"
end
FLAGS = %w[compile bump]

# The packages, and the names of gems to take from Ruby itself.
def read_list
  entries, from_ruby = [], []
  File.foreach("#{WORK}/list") do |line|
    name, *flags = line.sub(/#.*/, "").split
    next unless name
    unknown = flags - FLAGS
    die "list: unknown word #{unknown.first} after #{name}" unless unknown.empty?
    if name.start_with?("ruby:")
      from_ruby << name.delete_prefix("ruby:")
    else
      package, suite = name.split("/")
      entries << Entry.new(package, suite || SUITE, flags)
    end
  end
  [entries, from_ruby]
end

# --- apt --------------------------------------------------------------------

# With an empty dpkg status apt answers as if nothing were installed, and so
# lists all that a package depends on.
APT = ["-q", "-o", "Dir::State::status=/dev/null", "-o", "APT::Default-Release=#{SUITE}",
       "-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=root",
       "-o", "Acquire::Languages=none", "-o", "Acquire::PDiffs=false", "-o", "Acquire::Retries=3"]

# A mirror that stands still has indexes past their date: they are good here.
def apt_update(suites, with_source)
  keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no]"
  wanted = suites.map { |s| "deb #{keys} #{MIRROR} #{s} main\n" } + with_source.map { |s| "deb-src #{keys} #{MIRROR} #{s} main\n" }
  file, stamp = "/etc/apt/sources.list", "#{WORK}/updated"
  return if File.exist?(stamp) && File.read(file) == wanted.join && Time.now - File.mtime(stamp) < DAY
  FileUtils.rm_f(stamp)
  File.write(file, wanted.join)
  run("apt-get", *APT, "update", "--error-on=any")
  FileUtils.touch(stamp)
end

# The packages to make gems of: those named for another suite alone, those named
# for SUITE with every Ruby package they need. The second list is packages whose
# files the gems link to: Debian has a link into libjs-jquery for a gem's own copy.
def closure(entries)
  names = entries.select { |e| e.suite == SUITE }.map(&:package)
  all = run("apt-get", *APT, "install", "--simulate", *names).scan(/^Inst (\S+)/).flatten
  stanzas = run("apt-cache", *APT.drop(1), "show", "--no-all-versions", *all).split("\n\n")
  ruby = stanzas.select { |s| s.match?(/^Package: ruby-/) || s.match?(/^Depends:.*\bruby\b/) }
  ruby = ruby.map { |s| s[/^Package: (\S+)/, 1] } | names
  data = all.grep(/\A(libjs-|node-|publicsuffix\z)/)
  [entries.reject { |e| e.suite == SUITE }.map(&:target) + ruby.map { |n| "#{n}/#{SUITE}" },
   (data - ruby).map { |n| "#{n}/#{SUITE}" }]
end

# [file, target] of each; what is there is not fetched again.
def download_debs(targets)
  FileUtils.mkdir_p("#{WORK}/debs")
  targets.group_by { |t| t[/[^\/]+\z/] }.flat_map do |suite, group|     # a package once per suite
    files = run("apt-get", *APT, "download", "--print-uris", *group).scan(/^'\S+' (\S+)/).flatten
    missing = files.reject { |f| File.exist?("#{WORK}/debs/#{f}") }.map { |f| "#{f[/[^_]+/]}/#{suite}" }
    run("apt-get", *APT, "download", *missing, chdir: "#{WORK}/debs") unless missing.empty?
    files.map { |f| ["#{WORK}/debs/#{f}", "#{f[/[^_]+/]}/#{suite}"] }
  end
end

# Unpacks upstream's archive of a package's source. Debian's patches are left
# out: most of them fit a gem to Debian's places for files.
def unpack_source(target, into, *only)
  uris = run("apt-get", *APT, "source", "--download-only", "--print-uris", target)
  url, file, _, sum = uris.lines.grep(/\.orig\.tar\.\w+ /).first&.delete("'")&.split
  url or die("no upstream archive is listed for #{target}")
  FileUtils.mkdir_p("#{WORK}/sources")
  archive = "#{WORK}/sources/#{file}"
  run("/usr/lib/apt/apt-helper", "download-file", url, archive, sum) unless File.exist?(archive)
  FileUtils.mkdir_p(into)
  run("tar", "-xf", archive, "--no-same-owner", "--strip-components=1", "-C", into, "--wildcards", *only)
end

# --- gems -------------------------------------------------------------------

PACKED = Hash.new { |hash, name| hash[name] = [] }      # name => specifications
BUMPED = []                                             # full names

def load_spec(path)
  Dir.chdir(File.dirname(path)) { Gem::Specification.load(path) } or die("cannot load #{path}")
end

def copy(from, to)
  return unless File.exist?(from)
  FileUtils.mkdir_p(File.dirname(to))
  FileUtils.cp_r(from, to, remove_destination: true)
end

def copy_tree(from, to)
  FileUtils.mkdir_p(to)
  run("cp", "-rL", "#{from}/.", to)
end

def files_in(folder) = Dir.glob("**/*", File::FNM_DOTMATCH, base: folder).select { |f| File.file?("#{folder}/#{f}") }.sort

def gem_file(spec) = "#{WORK}/served/gems/#{spec.full_name}.gem"

def pack(spec, stage, origin)
  spec.files = files_in(stage)
  lost = spec.executables.reject { |e| File.exist?("#{stage}/#{spec.bindir}/#{e}") }
  puts "lost: #{spec.full_name} has no #{lost.join(", ")}" unless lost.empty?
  spec.executables -= lost
  spec.test_files = spec.extra_rdoc_files = spec.cert_chain = []
  spec.signing_key = nil
  spec.dependencies.reject! { |d| d.type == :development }
  return if File.exist?(gem_file(spec))
  Dir.chdir(stage) { FileUtils.mv(Gem::Package.build(spec, true), gem_file(spec)) }
  PACKED[spec.name] << spec.dup
  puts "#{spec.full_name}\t#{origin}"
end

# The same files under the next version: 1.1.5 becomes 1.1.6.
def pack_bumped(spec, stage, origin)
  *first, last = spec.version.segments
  bumped = spec.dup
  bumped.version = Gem::Version.new([*first, last + 1].join("."))
  BUMPED << bumped.full_name
  pack(bumped, stage, "#{origin} (bumped)")
end

SHARED = %w[javascript publicsuffix]

# Unpacks a .deb, with what its links may point to and without links to nowhere.
def unpack_deb(deb, root)
  run("dpkg-deb", "-x", deb, root)
  FileUtils.mkdir_p("#{root}/usr/share")
  SHARED.each do |folder|
    next if File.exist?("#{root}/usr/share/#{folder}") || !File.exist?("#{WORK}/shared/usr/share/#{folder}")
    File.symlink("#{WORK}/shared/usr/share/#{folder}", "#{root}/usr/share/#{folder}")
  end
  run("find", root, "-xtype", "l", "-delete")
end

# Lays out in stage what a .deb, unpacked at root, has of a gem.
def stage_deb(spec, spec_path, package, root, stage)
  base = File.expand_path("../..", spec_path)           # …/rubygems-integration/all
  gem_folder = "#{base}/gems/#{spec.full_name}"
  if File.directory?(gem_folder)
    copy_tree(gem_folder, stage)
  else                                                  # the older layout: Ruby's vendor folders
    libs = Dir["#{root}/usr/lib/{ruby/vendor_ruby,*/ruby/vendor_ruby/#{ABI}}"]
    libs.each { |lib| copy_tree(lib, "#{stage}/lib") }
  end
  Dir["#{base}/extensions/*/*/#{spec.full_name}"].each do |built|
    files_in(built).grep(/\.so\z/).each { |f| copy("#{built}/#{f}", "#{stage}/lib/#{f}") }
  end
  spec.executables.each do |e|
    script = "#{root}/usr/bin/#{e}"
    next if File.exist?("#{stage}/#{spec.bindir}/#{e}") || !File.file?(script)
    copy(script, "#{stage}/#{spec.bindir}/#{e}") if File.open(script, &:gets).to_s.include?("ruby")
  end
  if spec.name == "bootsnap"                            # Debian leaves its command out
    FileUtils.mkdir_p("#{stage}/exe")
    File.write("#{stage}/exe/bootsnap", "#!/usr/bin/env ruby\nrequire \"bootsnap/cli\"\nexit Bootsnap::CLI.new(ARGV).run\n", perm: 0o755)
  end
  SHARED.each { |name| relocate_data(name, root, stage) }
  data = "#{root}/usr/share/#{package}"                 # an engine's app/ and vendor/, if not found by name
  copy_tree(data, stage) unless relocate_data(package, root, stage) || !File.directory?(data)
end

# Debian has some gems read their data from /usr/share/PACKAGE: it is put into
# the gem, and the code looks there. True where code did.
def relocate_data(name, root, stage)
  moved = false
  files_in(stage).grep(/\.rb\z/).each do |f|
    code = File.binread("#{stage}/#{f}")
    up = "../" * f.count("/")
    next unless code.gsub!(%r{(['"])/usr/share/#{name}(/[^'"]*)?\1}) { %(File.expand_path("#{up}data-#{name}#{$2}", __dir__)) }
    File.binwrite("#{stage}/#{f}", code)
    moved = true
  end
  copy_tree("#{root}/usr/share/#{name}", "#{stage}/data-#{name}") if moved
  moved
end

# A .deb may hold several gems. Their names.
def gems_of_deb(deb, target, flags)
  Dir.mktmpdir do |root|
    unpack_deb(deb, root)
    Dir["#{root}/usr/{share,lib/*}/rubygems-integration/*/specifications/*.gemspec"].sort.map do |path|
      spec, stage = load_spec(path), Dir.mktmpdir(nil, root)
      stage_deb(spec, path, target[/\A[^\/]+/], root, stage)
      if flags.include?("compile")
        compiled_gem(spec, stage, target, "#{root}/source")
      elsif files_in(stage).grep(/\.so\z/).empty?
        spec.extensions = []
        pack(spec, stage, target)
        pack_bumped(spec, stage, target) if flags.include?("bump")
      else
        spec.platform, spec.extensions = PLATFORM, []
        spec.required_ruby_version = Gem::Requirement.new("~> #{ABI}")
        pack(spec, stage, "#{target} (precompiled)")
      end
      spec.name
    end
  end
end

# A gem with C sources: upstream's files, and the Ruby files that upstream
# generates for a release and that only the .deb has.
def compiled_gem(deb_spec, deb_stage, target, source)
  unpack_source(target, source)
  in_git(source)
  path = Dir["#{source}/**/#{deb_spec.name}.gemspec"].min_by(&:length) or die("no gemspec in the source of #{target}")
  spec, tree, stage = load_spec(path), File.dirname(path), "#{source}.stage"
  FileUtils.mkdir_p(stage)
  spec.files.select { |f| File.file?("#{tree}/#{f}") }.each { |f| copy("#{tree}/#{f}", "#{stage}/#{f}") }
  files_in(deb_stage).grep(/\Alib\/.*\.rb\z/).each do |f|
    copy("#{deb_stage}/#{f}", "#{stage}/#{f}") unless File.exist?("#{stage}/#{f}")
  end
  # The libraries that upstream puts into such a gem are not in Debian's archive.
  if spec.dependencies.any? { |d| d.name == "mini_portile2" }
    spec.extensions.each do |f|
      File.write("#{stage}/#{f}", "ARGV << \"--enable-system-libraries\"\n" + File.read("#{stage}/#{f}"))
    end
  end
  die("the source of #{target} has no extension to compile") if spec.extensions.empty?
  pack(spec, stage, "#{target} (source)")
end

# Many gemspecs ask `git ls-files` for their files.
def in_git(folder)
  run("git", "init", "-q", chdir: folder)
  run("git", "add", "-Af", ".", chdir: folder)
end

# Native gems that are part of Ruby, from its source. It has bundled gems whole,
# in .bundle, and default gems as ext/NAME/{*.c,extconf.rb,lib}, where a gem has
# ext/NAME and lib.
def native_gems_of_ruby(names)
  return if names.empty?
  Dir.mktmpdir do |folder|
    unpack_source("ruby#{ABI[/\d+\.\d+/]}", "#{folder}/source", "*/ext", "*/.bundle/gems")
    names.each do |name|
      stage = Dir.mktmpdir(nil, folder)
      bundled, ext = Dir["#{folder}/source/.bundle/gems/#{name}-[0-9]*"].first, "ext/#{name.tr("-", "/")}"
      path = bundled ? "#{bundled}/#{name}.gemspec" : "#{folder}/source/#{ext}/#{name}.gemspec"
      File.exist?(path) or die("Ruby's source has no native gem #{name}")
      if bundled
        FileUtils.cp_r("#{bundled}/.", stage)
        in_git(bundled)
      else
        copy("#{folder}/source/#{ext}", "#{stage}/#{ext}")
        FileUtils.mv("#{stage}/#{ext}/lib", "#{stage}/lib") if File.directory?("#{stage}/#{ext}/lib")
      end
      pack(load_spec(path), stage, "ruby (source)")
    end
  end
end

# Pure gems that are part of Ruby, from the installed one, by name: each with
# what lays out its files.
def pure_gems_of_ruby
  found = Hash.new { |hash, name| hash[name] = [] }
  folder = "#{RbConfig::CONFIG["rubylibprefix"]}/gems/#{ABI}"
  Dir["#{folder}/specifications/*.gemspec"].sort.each do |path|
    spec = load_spec(path)
    next unless spec.extensions.empty?
    found[spec.name] << [spec, ->(stage) { FileUtils.cp_r("#{folder}/gems/#{spec.full_name}/.", stage) }]
  end
  Dir["#{folder}/specifications/default/*.gemspec"].sort.each do |path|
    spec = load_spec(path)
    next if spec.files.empty? || spec.extensions.any? || spec.name == "bundler"
    found[spec.name] << [spec, lambda { |stage|
      spec.files.each { |f| copy("#{RbConfig::CONFIG["rubylibdir"]}/#{f}", "#{stage}/lib/#{f}") }
      copy("#{folder}/gems/#{spec.full_name}/#{spec.bindir}", "#{stage}/#{spec.bindir}")
    }]
  end
  found
end

# Gems of one's own, as they are. Their names.
def own_gems
  Dir["#{WORK}/own/*/*.gemspec"].sort.map do |path|
    spec = load_spec(path)
    pack(spec, File.dirname(path), "own")
    spec.name
  end
end

# Serves what the wanted gems need, in turn, and nothing else: packs Ruby's own
# pure gems as they are met, and removes what came along with a package.
def complete(wanted, ruby)
  queue, seen = wanted.dup, {}
  while (name = queue.shift)
    next if seen[name]
    seen[name] = true
    ruby.fetch(name, []).each do |spec, lay_out|
      Dir.mktmpdir { |stage| lay_out[stage]; pack(spec, stage, "ruby") }
    end
    queue.concat(PACKED.fetch(name, []).flat_map { |s| s.runtime_dependencies.map(&:name) })
  end
  PACKED.reject { |n, _| seen[n] }.each_value { |specs| specs.each { |s| File.delete(gem_file(s)) } }
end

# --- index ------------------------------------------------------------------

def write_index
  Dir.chdir("#{WORK}/served") do
    FileUtils.mkdir_p(%w[info quick/Marshal.4.8])
    gems = Dir["gems/*.gem"].sort.map { |f| [Gem::Package.new(f).spec, Digest::SHA256.file(f).hexdigest] }
    gems.sort_by! { |spec, _| [spec.name, spec.version, spec.platform.to_s] }

    # the compact index, which Bundler reads from a server
    File.write("names", gems.map { |s, _| s.name }.uniq.unshift("---").join("\n") + "\n")
    versions = "created_at: 2025-01-01T00:00:00Z\n---\n"
    gems.group_by { |s, _| s.name }.each do |name, all|
      info = "---\n" + all.map { |s, sum| info_line(s, sum) }.join
      File.write("info/#{name}", info)
      versions << "#{name} #{all.map { |s, _| number(s) }.join(",")} #{Digest::MD5.hexdigest(info)}\n"
    end
    File.write("versions", versions)

    # The Marshal index, which Bundler reads from a folder, and `gem install`
    # anywhere. Without the bumped gems, for a new lock to have the true ones.
    specs = gems.map(&:first).reject { |s| BUMPED.include?(s.full_name) }
    tuples = ->(list) { list.map { |s| [s.name, s.version, s.original_platform.to_s] } }
    latest = specs.reject { |s| s.version.prerelease? }.group_by { |s| [s.name, s.platform] }.map { |_, l| l.max_by(&:version) }
    { "specs" => tuples[specs.reject { |s| s.version.prerelease? }], "latest_specs" => tuples[latest],
      "prerelease_specs" => tuples[specs.select { |s| s.version.prerelease? }] }.each do |name, list|
      Zlib::GzipWriter.open("#{name}.4.8.gz") { |gz| gz.mtime = 1; gz.write(Marshal.dump(list)) }
    end
    specs.each do |s|
      File.binwrite("quick/Marshal.4.8/#{s.full_name}.gemspec.rz", Zlib.deflate(Marshal.dump(s)))
    end
    report_unmet(specs)
  end
end

def number(spec) = spec.platform == Gem::Platform::RUBY ? spec.version.to_s : "#{spec.version}-#{spec.platform}"

def info_line(spec, sum)
  needs = ->(requirement) { requirement.as_list.sort.join("&") }
  needed = spec.runtime_dependencies.sort.map { |d| "#{d.name}:#{needs[d.requirement]}" }.join(",")
  extra = ["checksum:#{sum}"]
  extra << "ruby:#{needs[spec.required_ruby_version]}" unless spec.required_ruby_version.none?
  extra << "rubygems:#{needs[spec.required_rubygems_version]}" unless spec.required_rubygems_version.none?
  "#{number(spec)} #{needed}|#{extra.join(",")}\n"
end

def report_unmet(specs)
  by_name = specs.group_by(&:name)
  specs.each do |s|
    s.runtime_dependencies.each do |d|
      next if by_name.fetch(d.name, []).any? { |c| d.requirement.satisfied_by?(c.version) }
      puts "unmet: #{s.full_name} needs #{d.name} #{d.requirement}"
    end
  end
end

# ----------------------------------------------------------------------------

entries, from_ruby = read_list
compiled = entries.select { |e| e.flags.include?("compile") }.map(&:suite)
compiled << SUITE unless from_ruby.empty?
apt_update([SUITE, *entries.map(&:suite)].uniq, compiled.uniq)
FileUtils.rm_rf(["#{WORK}/served", "#{WORK}/shared"])
FileUtils.mkdir_p(["#{WORK}/served/gems", "#{WORK}/shared"])

targets, shared = closure(entries)
download_debs(shared).each { |deb, _| run("dpkg-deb", "-x", deb, "#{WORK}/shared") }
flags = entries.to_h { |e| [e.target, e.flags] }
wanted = download_debs(targets).flat_map do |deb, target|
  names = gems_of_deb(deb, target, flags.fetch(target, []))
  flags.key?(target) ? names : []
end
pure = pure_gems_of_ruby
native_gems_of_ruby(from_ruby - pure.keys)
complete(wanted + from_ruby + own_gems, pure)
write_index
