# What the worker finds out about a packet; empty until then.
class AddAppraisalToPackets < ActiveRecord::Migration[7.2]
  def change
    change_table :packets, bulk: true do |t|
      t.integer :germination
      t.date :sow_by
      t.datetime :appraised_at
    end
  end
end
