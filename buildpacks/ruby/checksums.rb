# Compares the gems with the checksums of the lock, where it has them: Bundler
# does so only for gems that it installs itself, and old ones do not at all.
require "digest"

wanted = {}
section = nil
lock = ["gems.locked", "Gemfile.lock"].find { |name| File.exist?(name) }
File.foreach(lock, chomp: true) do |line|
  section = line unless line.start_with?(" ") || line.empty?
  next unless section == "CHECKSUMS"

  name, version, sum = line.match(/\A  (\S+) \(([^)]+)\) sha256=(\h{64})/)&.captures
  wanted["#{name}-#{version}.gem"] = sum if name
end

Dir.glob("/opt/forge/gems/*.gem").sort.each do |path|
  name = File.basename(path)
  sum = Digest::SHA256.file(path).hexdigest
  next if wanted.fetch(name, sum) == sum

  abort "#{name} has the SHA-256 #{sum}, and #{lock} demands #{wanted[name]}"
end
