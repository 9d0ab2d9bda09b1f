require "test_helper"

class SwappingTest < ActionDispatch::IntegrationTest
  include ActiveJob::TestHelper

  test "a packet is offered, appraised and listed" do
    post packets_path, params: { packet: { plant: "Pea", variety: "Lincoln", harvested_in: Date.current.year, giver: "Bo", word: "hoe" } }
    follow_redirect!
    assert_select ".germination", "not appraised yet"

    perform_enqueued_jobs
    get root_path
    assert_select "li .germination", "90 % should germinate"
  end

  test "only the word takes a packet back" do
    packet = offer

    delete packet_path(packet), params: { word: "spade" }
    assert Packet.exists?(packet.id)

    delete packet_path(packet), params: { word: "trowel" }
    assert_not Packet.exists?(packet.id)
  end

  test "a packet that lacks something is refused" do
    post packets_path(format: :json), params: { packet: { plant: "Triffid" } }

    assert_response :unprocessable_entity
    assert_includes response.parsed_body["errors"].keys, "plant"
  end

  test "the list as JSON tells no words" do
    offer
    get packets_path(format: :json)

    assert_equal "Black Cherry", response.parsed_body.first["variety"]
    assert_not_includes response.parsed_body.first.keys, "word_digest"
  end
end
