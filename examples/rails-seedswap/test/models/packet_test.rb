require "test_helper"

class PacketTest < ActiveSupport::TestCase
  include ActiveJob::TestHelper

  test "a new packet is appraised by a job" do
    packet = offer
    assert_not packet.appraised?

    perform_enqueued_jobs
    assert packet.reload.appraised?
  end

  test "germination falls to half in the years that the seed keeps" do
    tomato = Plant.named("Tomato")

    assert_equal 90, tomato.germination(0)
    assert_equal 45, tomato.germination(tomato.keeps)
  end

  test "it is worth sowing until the end of the last year that the seed keeps" do
    packet = offer(plant: "Parsnip", harvested_in: 2023)
    packet.appraise

    assert_equal Date.new(2024, 12, 31), packet.sow_by
  end

  test "next year's harvest cannot be offered" do
    packet = Packet.new(harvested_in: Date.current.year + 1)

    assert_not packet.valid?
    assert packet.errors.include?(:harvested_in)
  end
end
